// Numbers of bytes as people write them: 4096, 64MiB, 1.5 GB.
import { LeanformerError } from '../native/errors'

const byteUnits: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  k: 1e3,
  kb: 1e3,
  kib: 2 ** 10,
  m: 1e6,
  mb: 1e6,
  mib: 2 ** 20,
  g: 1e9,
  gb: 1e9,
  gib: 2 ** 30,
  t: 1e12,
  tb: 1e12,
  tib: 2 ** 40,
}

/** `1.5GiB`, `500 MB`, `1024`; null: not a number of bytes from 1 on. */
export function bytesOf(text: string): number | null {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(text)
  const unit = match ? byteUnits[match[2].toLowerCase()] : undefined
  const bytes = unit === undefined ? 0 : Math.floor(Number(match![1]) * unit)
  return bytes >= 1 ? bytes : null
}

/** @throws ERR_OPTION naming `what` */
export function parseBytes(what: string, text: string): number {
  const bytes = bytesOf(text)
  if (bytes === null) throw new LeanformerError('ERR_OPTION', `${what} is ${JSON.stringify(text)}`, 'give a number of bytes, such as 64MiB')
  return bytes
}
