// Training text: a UTF-8 file, or the name of a dataset. UTF-8 is strict, since replacement characters would be
// learned: a bad byte is an error that gives its offset.

import { readFile, stat } from 'node:fs/promises'

import { LeanformerError } from '../native/errors'
import { datasets } from './datasets/index'

export interface Text {
  /** The path or dataset name it came from. */
  readonly source: string
  readonly text: string
  /** Length in UTF-8 bytes. */
  readonly bytes: number
}

/** Offset of the first byte that is not part of well-formed UTF-8 (Unicode 15, table 3-7), or -1. */
export function firstInvalidUtf8(bytes: Uint8Array): number {
  const at = (i: number) => (i < bytes.length ? bytes[i]! : 0)
  const continues = (i: number) => (at(i) & 0xc0) === 0x80
  let i = 0
  while (i < bytes.length) {
    const lead = bytes[i]!
    const second = at(i + 1)
    if (lead < 0x80) i += 1
    else if (lead >= 0xc2 && lead <= 0xdf && continues(i + 1)) i += 2
    else if (
      lead >= 0xe0 &&
      lead <= 0xef &&
      continues(i + 1) &&
      continues(i + 2) &&
      !(lead === 0xe0 && second < 0xa0) && // overlong
      !(lead === 0xed && second > 0x9f) // surrogate
    )
      i += 3
    else if (
      lead >= 0xf0 &&
      lead <= 0xf4 &&
      continues(i + 1) &&
      continues(i + 2) &&
      continues(i + 3) &&
      !(lead === 0xf0 && second < 0x90) &&
      !(lead === 0xf4 && second > 0x8f)
    )
      i += 4
    else return i
  }
  return -1
}

/** Decodes strict UTF-8; a byte-order mark is dropped. `name` is used in the error. */
export function decodeUtf8(bytes: Uint8Array, name: string): string {
  const bad = firstInvalidUtf8(bytes)
  if (bad >= 0) {
    const value = bytes[bad]!.toString(16).padStart(2, '0')
    throw new LeanformerError(
      'ERR_DATA',
      `text: ${name} is not UTF-8: bad byte 0x${value} at offset ${bad}`,
      `convert it first, for example: iconv -f latin1 -t utf-8 ${name} > utf8.txt`,
    )
  }
  return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
}

/** Reads a text file or a dataset by name. A dataset wins over a file of the same name; write ./name for the file. */
export async function readText(source: string): Promise<Text> {
  const dataset = Object.hasOwn(datasets, source) ? datasets[source] : undefined
  const text = dataset ? await dataset() : decodeUtf8(await readBytes(source), source)
  if (text.length === 0) {
    throw new LeanformerError('ERR_DATA', `text: ${source} is empty`, 'give a file with some text in it')
  }
  return { source, text, bytes: Buffer.byteLength(text) }
}

async function readBytes(path: string): Promise<Uint8Array> {
  const known = `a UTF-8 text file, or one of the datasets: ${Object.keys(datasets).join(', ')}`
  try {
    const info = await stat(path)
    if (info.isDirectory()) {
      throw new LeanformerError('ERR_DATA', `text: ${path} is a directory`, `give ${known}`)
    }
    // The longest string of V8 is 2^29 - 24 UTF-16 units.
    if (info.size > 2 ** 29 - 24) {
      throw new LeanformerError(
        'ERR_DATA',
        `text: ${path} has ${info.size} bytes; a text that is held as one string may have ${2 ** 29 - 24}`,
        'give the documents one by one, as an AsyncIterable of strings',
      )
    }
    return await readFile(path)
  } catch (error) {
    if (error instanceof LeanformerError) throw error
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new LeanformerError('ERR_DATA', `text: ${path} does not exist`, `give ${known}`, { cause: error })
    }
    throw new LeanformerError('ERR_IO', `text: ${path} cannot be read: ${(error as Error).message}`, `give ${known}`, {
      cause: error,
    })
  }
}
