// One short text for the bits of many arrays: comparing texts is quick, comparing arrays in Jest is not.
import { createHash } from 'node:crypto'

export function digest(arrays: readonly (ArrayBufferView | undefined)[]): string {
  const hash = createHash('sha256')
  for (const array of arrays) hash.update(array ? new Uint8Array(array.buffer, array.byteOffset, array.byteLength) : 'none')
  return hash.digest('hex')
}
