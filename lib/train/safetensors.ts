// The safetensors format: u64 little-endian header length, a JSON header, the data. The header maps each name to
// { dtype, shape, data_offsets: [begin, end) } within the data; `__metadata__` maps strings to strings.
// Reading is as strict as the reference: header of at most 100 MB, every byte of the data belongs to exactly one
// tensor, sizes agree with dtype and shape. Writing sorts by dtype (wide first, so that data is aligned), then by name,
// in the order of the reference, so that the same tensors give the same file, byte for byte.

import { open, type FileHandle } from 'node:fs/promises'

import { LeanformerError } from '../native/errors'

export type HostDType = 'f32' | 'f16' | 'bf16' | 'f64' | 'i8' | 'u8' | 'i32' | 'i64' | 'bool'

/** A tensor in host memory as plain bytes, little-endian. */
export interface HostTensor {
  dtype: HostDType
  shape: number[]
  data: Uint8Array
}

export const hostDTypeBytes: Readonly<Record<HostDType, number>> = {
  f32: 4,
  f16: 2,
  bf16: 2,
  f64: 8,
  i8: 1,
  u8: 1,
  i32: 4,
  i64: 8,
  bool: 1,
}

/** Bytes that a tensor of that dtype and shape has. */
export function hostTensorBytes(dtype: HostDType, shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, hostDTypeBytes[dtype])
}

const kMaxHeader = 100_000_000
const kMetadata = '__metadata__'
const kChunk = 1 << 20 // one read or write of at most 1 MiB: the event loop breathes in between

/** In the order in which they are written. */
const toFormat: Readonly<Record<HostDType, string>> = {
  i64: 'I64',
  f64: 'F64',
  f32: 'F32',
  i32: 'I32',
  bf16: 'BF16',
  f16: 'F16',
  i8: 'I8',
  u8: 'U8',
  bool: 'BOOL',
}
const writeOrder = Object.keys(toFormat)
const fromFormat = new Map(Object.entries(toFormat).map(([dtype, name]) => [name, dtype as HostDType]))

export interface Safetensors {
  tensors: Record<string, HostTensor>
  metadata: Record<string, string>
}

interface Entry {
  name: string
  dtype: HostDType
  shape: number[]
  begin: number
  end: number
}

function failure(file: string, problem: string, cause?: unknown): LeanformerError {
  return new LeanformerError(
    'ERR_CHECKPOINT',
    `safetensors: ${file}: ${problem}`,
    'the file is damaged or not a safetensors file: write it again, or use another copy',
    { cause },
  )
}

/** The parts of a file, in order: header, then each tensor's bytes. */
export function* safetensorsParts(
  tensors: Record<string, HostTensor>,
  metadata: Record<string, string> = {},
): Generator<Uint8Array> {
  const names = Object.keys(tensors).sort((a, b) => {
    return writeOrder.indexOf(tensors[a]!.dtype) - writeOrder.indexOf(tensors[b]!.dtype) || (a < b ? -1 : 1)
  })
  const header: [string, unknown][] = []
  if (Object.keys(metadata).length > 0) header.push([kMetadata, metadata])
  let offset = 0
  for (const name of names) {
    const { dtype, shape, data } = tensors[name]!
    const bytes = hostTensorBytes(dtype, shape)
    if (name === kMetadata || data.byteLength !== bytes) {
      throw new LeanformerError(
        'ERR_ARGUMENT',
        `safetensors: tensor ${name}: ${dtype} of shape [${shape.join(', ')}] with ${data.byteLength} bytes`,
        name === kMetadata ? 'that name is reserved' : `give ${bytes} bytes`,
      )
    }
    header.push([name, { dtype: toFormat[dtype], shape, data_offsets: [offset, offset + bytes] }])
    offset += bytes
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(header)))
  const padded = Math.ceil(json.length / 8) * 8
  if (padded > kMaxHeader) {
    throw new LeanformerError(
      'ERR_ARGUMENT',
      `safetensors: a header of ${padded} bytes`,
      `the format allows ${kMaxHeader}: give fewer tensors or shorter names`,
    )
  }
  const head = Buffer.alloc(8 + padded, ' ')
  head.writeBigUInt64LE(BigInt(padded), 0)
  json.copy(head, 8)
  yield head
  for (const name of names) {
    const { data } = tensors[name]!
    for (let at = 0; at < data.byteLength; at += kChunk) yield data.subarray(at, at + kChunk)
  }
}

export function encodeSafetensors(tensors: Record<string, HostTensor>, metadata?: Record<string, string>): Uint8Array {
  return Buffer.concat([...safetensorsParts(tensors, metadata)])
}

function parseHeader(
  file: string,
  json: Uint8Array,
  dataBytes: number,
): { entries: Entry[]; metadata: Record<string, string> } {
  let header: unknown
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json))
  } catch (error) {
    throw failure(file, `the header is not JSON: ${(error as Error).message}`, error)
  }
  if (typeof header !== 'object' || header === null || Array.isArray(header)) {
    throw failure(file, 'the header is not a JSON object')
  }
  let metadata: Record<string, string> = {}
  const entries: Entry[] = []
  for (const [name, value] of Object.entries(header as Record<string, unknown>)) {
    if (name === kMetadata) {
      const strings =
        typeof value === 'object' && value !== null && Object.values(value).every((v) => typeof v === 'string')
      if (!strings) throw failure(file, 'the metadata is not a map of strings')
      metadata = value as Record<string, string>
    } else {
      entries.push(parseEntry(file, name, value))
    }
  }
  // Sorted by place, the tensors must cover the data without a gap or an overlap.
  let end = 0
  for (const entry of [...entries].sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (entry.begin !== end) {
      const what = entry.begin < end ? 'overlaps the one before it' : 'leaves a gap before it'
      throw failure(file, `tensor ${entry.name} at [${entry.begin}, ${entry.end}) ${what}, which ends at ${end}`)
    }
    end = entry.end
  }
  if (end !== dataBytes) throw failure(file, `the tensors need ${end} bytes of data, the file has ${dataBytes}`)
  return { entries, metadata }
}

function parseEntry(file: string, name: string, value: unknown): Entry {
  const { dtype: format, shape, data_offsets: offsets } = (value ?? {}) as Record<string, unknown>
  const sizes = (v: unknown): v is number[] =>
    Array.isArray(v) && v.every((n) => Number.isSafeInteger(n) && (n as number) >= 0)
  if (typeof format !== 'string' || !sizes(shape) || !sizes(offsets) || offsets.length !== 2) {
    throw failure(file, `the entry of tensor ${name} is malformed`)
  }
  const dtype = fromFormat.get(format)
  if (dtype === undefined) {
    throw failure(file, `tensor ${name} has dtype ${format}; supported are ${[...fromFormat.keys()].join(', ')}`)
  }
  const [begin, end] = offsets as [number, number]
  const bytes = hostTensorBytes(dtype, shape)
  if (end - begin !== bytes) {
    throw failure(
      file,
      `tensor ${name}: ${format} of shape [${shape.join(', ')}] needs ${bytes} bytes, not [${begin}, ${end})`,
    )
  }
  return { name, dtype, shape, begin, end }
}

/** Fills `target` with the bytes from `position` on. */
type Fill = (target: Uint8Array, position: number) => Promise<void>

async function readHeader(file: string, size: number, fill: Fill): Promise<{ entries: Entry[]; metadata: Record<string, string>; start: number }> {
  if (size < 8) throw failure(file, `${size} bytes are too few for a header`)
  const prefix = new Uint8Array(8)
  await fill(prefix, 0)
  const length = Number(new DataView(prefix.buffer).getBigUint64(0, true))
  if (length > kMaxHeader)
    throw failure(file, `the header would have ${length} bytes; at most ${kMaxHeader} are allowed`)
  if (length < 2 || 8 + length > size) throw failure(file, `the header has ${length} bytes, the file ${size}`)
  const json = new Uint8Array(length)
  await fill(json, 8)
  return { ...parseHeader(file, json, size - 8 - length), start: 8 + length }
}

/** Reads each tensor into memory of its own, so that views of any element type are aligned. */
async function readAll(file: string, size: number, fill: Fill): Promise<Safetensors> {
  const { entries, metadata, start } = await readHeader(file, size, fill)
  const tensors: [string, HostTensor][] = []
  for (const { name, dtype, shape, begin, end } of entries) {
    const data = new Uint8Array(end - begin)
    await fill(data, start + begin)
    tensors.push([name, { dtype, shape, data }])
  }
  return { tensors: Object.fromEntries(tensors), metadata }
}

/** `file` is used in errors. */
export function decodeSafetensors(bytes: Uint8Array, file = 'buffer'): Promise<Safetensors> {
  return readAll(file, bytes.byteLength, (target, position) => {
    target.set(bytes.subarray(position, position + target.length))
    return Promise.resolve()
  })
}

/** A tensor of an open file; `read` fills `target` with its bytes from `from` on. */
export interface StoredTensor {
  name: string
  dtype: HostDType
  shape: number[]
  read(target: Uint8Array, from: number): Promise<void>
}

async function withFile<T>(path: string, use: (size: number, fill: Fill) => Promise<T>): Promise<T> {
  let handle: FileHandle
  try {
    handle = await open(path, 'r')
  } catch (error) {
    throw new LeanformerError(
      'ERR_IO',
      `safetensors: ${path} cannot be opened: ${(error as Error).message}`,
      undefined,
      {
        cause: error,
      },
    )
  }
  try {
    const { size } = await handle.stat()
    return await use(size, async (target, position) => {
      for (let done = 0; done < target.length;) {
        const { bytesRead } = await handle.read(target, done, Math.min(kChunk, target.length - done), position + done)
        if (bytesRead === 0) throw failure(path, `it ends at byte ${position + done}`)
        done += bytesRead
      }
    })
  } finally {
    await handle.close()
  }
}

/** Opens a file, checks its header and gives what is in it to `use`, which reads what it wants, piece by piece. */
export function openSafetensors<T>(path: string, use: (tensors: StoredTensor[], metadata: Record<string, string>) => Promise<T>): Promise<T> {
  return withFile(path, async (size, fill) => {
    const { entries, metadata, start } = await readHeader(path, size, fill)
    const stored = entries.map(({ name, dtype, shape, begin }) => ({
      name,
      dtype,
      shape,
      read: (target: Uint8Array, from: number) => fill(target, start + begin + from),
    }))
    return use(stored, metadata)
  })
}

export function readSafetensors(path: string): Promise<Safetensors> {
  return withFile(path, (size, fill) => readAll(path, size, fill))
}

/** Writes in place; `saveCheckpoint` is the way that survives a crash. */
export async function writeSafetensors(
  path: string,
  tensors: Record<string, HostTensor>,
  metadata?: Record<string, string>,
): Promise<void> {
  const handle = await open(path, 'w')
  try {
    for (const part of safetensorsParts(tensors, metadata)) await handle.writeFile(part)
  } finally {
    await handle.close()
  }
}
