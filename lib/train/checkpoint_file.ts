// Checkpoints that survive a crash at any moment. DIR/step-000123/ holds
//   model.safetensors      tensors named `model.*`, without that prefix: opens in Python as it is
//   optimizer.safetensors  every other tensor, under its full name
//   state.json             counters, cursors, schedules
//   manifest.json          size and SHA-256 of each file, and of itself
// All of it is written into a temporary directory, flushed to the disk, and renamed in one step. The newest `keep`
// stay. Loading checks every byte against the manifest; a damaged checkpoint is reported and the one before it is
// taken.

import * as fs from 'node:fs/promises'
import { join } from 'node:path'

import { LeanformerError } from '../native/errors'
import { readSafetensors, safetensorsParts, type HostTensor } from './safetensors'

export interface Checkpoint {
  tensors: Record<string, HostTensor>
  state: unknown
}

export interface SaveOptions {
  /** Checkpoints that stay, the new one included. Default 2. */
  keep?: number
  /** File operations; tests put failing ones here. */
  io?: Pick<typeof fs, 'open' | 'mkdir' | 'rename' | 'rm' | 'readdir'>
}

export interface LoadOptions {
  /** That step alone, in place of the newest that is sound. */
  step?: number
  /** Called for each checkpoint that is refused, with the file and the reason. */
  onWarning?: (message: string) => void
}

export interface LoadedCheckpoint extends Checkpoint {
  step: number
  path: string
}

interface Manifest {
  format: 'leanformer-checkpoint'
  version: 1
  step: number
  files: Record<string, { bytes: number; sha256: string }>
}

const kModel = 'model.safetensors'
const kOptimizer = 'optimizer.safetensors'
const kState = 'state.json'
const kManifest = 'manifest.json'
const kModelPrefix = 'model.'
const kHashChunk = 1 << 20

const stepName = (step: number): string => `step-${String(step).padStart(6, '0')}`
/** Loads node:crypto on the first call: it is slow to load, and most programs that import the library need it late or never. */
const newHash = async () => (await import('node:crypto')).createHash('sha256')
const sha256 = async (data: string): Promise<string> => (await newHash()).update(data).digest('hex')

/** Writes the checkpoint of `step`, returns its path. Nothing that was there is touched until it is safely on disk. */
export async function saveCheckpoint(
  dir: string,
  step: number,
  checkpoint: Checkpoint,
  options: SaveOptions = {},
): Promise<string> {
  const { keep = 2, io = fs } = options
  if (!Number.isSafeInteger(step) || step < 0 || !Number.isSafeInteger(keep) || keep < 1) {
    throw new LeanformerError(
      'ERR_ARGUMENT',
      `checkpoint: step ${step}, keep ${keep}`,
      'give a step >= 0 and keep >= 1',
    )
  }
  const path = join(dir, stepName(step))
  const temporary = join(dir, `.writing-${stepName(step)}-${process.pid}`)
  try {
    await io.mkdir(dir, { recursive: true })
    await removeLeftovers(io, dir)
    await io.mkdir(temporary)
    await writeFiles(io, temporary, step, checkpoint)
    await commit(io, dir, temporary, step, keep)
  } catch (error) {
    await io.rm(temporary, { recursive: true, force: true }).catch(() => {})
    if (error instanceof LeanformerError) throw error
    const { code, message } = error as NodeJS.ErrnoException
    const full = code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG'
    throw new LeanformerError(
      'ERR_IO',
      `checkpoint: ${path} cannot be written: ${full ? 'no space left on the disk' : message}`,
      full
        ? 'free some space or give another --out; earlier checkpoints are untouched'
        : 'check that the folder can be written; earlier checkpoints are untouched',
      { cause: error },
    )
  }
  return path
}

async function writeFiles(
  io: NonNullable<SaveOptions['io']>,
  folder: string,
  step: number,
  { tensors, state }: Checkpoint,
): Promise<void> {
  const isModel = ([name]: [string, unknown]): boolean => name.startsWith(kModelPrefix)
  const entries = Object.entries(tensors)
  const model = Object.fromEntries(entries.filter(isModel).map(([k, t]) => [k.slice(kModelPrefix.length), t]))
  const rest = Object.fromEntries(entries.filter((entry) => !isModel(entry)))
  const manifest: Manifest = { format: 'leanformer-checkpoint', version: 1, step, files: {} }
  const write = async (name: string, parts: Iterable<Uint8Array>): Promise<void> => {
    const hash = await newHash()
    let bytes = 0
    const file = await io.open(join(folder, name), 'wx')
    try {
      for (const part of parts) {
        await file.writeFile(part)
        hash.update(part)
        bytes += part.byteLength
      }
      await file.sync()
    } finally {
      await file.close()
    }
    manifest.files[name] = { bytes, sha256: hash.digest('hex') }
  }
  await write(kModel, safetensorsParts(model, { format: 'pt' }))
  await write(kOptimizer, safetensorsParts(rest))
  await write(kState, [Buffer.from(encodeState(state))])
  await write(kManifest, [
    Buffer.from(JSON.stringify({ ...manifest, checksum: await sha256(JSON.stringify(manifest)) }, null, 1)),
  ])
  await syncDirectory(io, folder)
}

/** The rename that makes it count, then the pruning. */
async function commit(
  io: NonNullable<SaveOptions['io']>,
  dir: string,
  temporary: string,
  step: number,
  keep: number,
): Promise<void> {
  const present = await listCheckpoints(dir, io)
  // After a resume from an older step, later ones belong to a line of the run that was left; the newest must be ours.
  for (const { name } of present.filter((c) => c.step > step)) await io.rm(join(dir, name), { recursive: true })
  const target = join(dir, stepName(step))
  const replaced = join(dir, `.replaced-${stepName(step)}`)
  if (present.some((c) => c.name === stepName(step))) {
    await io.rm(replaced, { recursive: true, force: true })
    await io.rename(target, replaced) // loading knows this name, should the next line not be reached
  }
  await io.rename(temporary, target)
  await syncDirectory(io, dir)
  const older = present.filter((c) => c.step < step)
  for (const { name } of older.slice(keep - 1)) await io.rm(join(dir, name), { recursive: true })
  await io.rm(replaced, { recursive: true, force: true })
}

async function syncDirectory(io: NonNullable<SaveOptions['io']>, path: string): Promise<void> {
  if (process.platform === 'win32') return // directories cannot be opened there; NTFS journals the rename
  const handle = await io.open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Temporary directories of processes that are gone, and of an earlier failure of this one. */
async function removeLeftovers(io: NonNullable<SaveOptions['io']>, dir: string): Promise<void> {
  for (const name of await io.readdir(dir)) {
    const pid = /^\.writing-step-\d+-(\d+)$/.exec(name)?.[1]
    if (pid === undefined || (Number(pid) !== process.pid && isAlive(Number(pid)))) continue
    await io.rm(join(dir, name), { recursive: true, force: true })
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Checkpoints in the folder, sound or not, newest first. */
export async function listCheckpoints(
  dir: string,
  io: Pick<typeof fs, 'readdir'> = fs,
): Promise<{ step: number; name: string }[]> {
  let names: string[]
  try {
    names = await io.readdir(dir)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
  return names
    .map((name) => ({ name, match: /^(?:\.replaced-)?step-(\d+)$/.exec(name) }))
    .filter(({ match }) => match !== null)
    .map(({ name, match }) => ({ step: Number(match![1]), name }))
    .sort((a, b) => b.step - a.step || (a.name < b.name ? 1 : -1)) // `step-` before `.replaced-step-`
}

/** The newest sound checkpoint of `dir`, or that of `step`. */
export async function loadCheckpoint(dir: string, options: LoadOptions = {}): Promise<LoadedCheckpoint> {
  const { step, onWarning = () => {} } = options
  const candidates = (await listCheckpoints(dir)).filter((c) => step === undefined || c.step === step)
  const refused: string[] = []
  for (const candidate of candidates) {
    const path = join(dir, candidate.name)
    try {
      return { ...(await readCheckpoint(path, candidate.step)), step: candidate.step, path }
    } catch (error) {
      const reason = `checkpoint: ${path} is refused: ${(error as Error).message}`
      refused.push(reason)
      onWarning(reason)
    }
  }
  const which = step === undefined ? 'no checkpoint' : `no checkpoint of step ${step}`
  throw new LeanformerError(
    'ERR_CHECKPOINT',
    `checkpoint: ${which} in ${dir} can be used${refused.length > 0 ? `; ${refused.join('; ')}` : ''}`,
    candidates.length === 0
      ? `give a folder that holds ${stepName(123)} or the like`
      : 'train again, or restore a copy of it',
  )
}

async function readCheckpoint(path: string, step: number): Promise<Checkpoint> {
  const manifest = await parseManifest(await fs.readFile(join(path, kManifest), 'utf8'), step)
  for (const [name, expected] of Object.entries(manifest.files)) await verifyFile(path, name, expected)
  const model = await readSafetensors(join(path, kModel))
  const rest = await readSafetensors(join(path, kOptimizer))
  return {
    tensors: Object.fromEntries([
      ...Object.entries(model.tensors).map(([name, tensor]) => [kModelPrefix + name, tensor] as const),
      ...Object.entries(rest.tensors),
    ]),
    state: decodeState(await fs.readFile(join(path, kState), 'utf8')),
  }
}

async function parseManifest(text: string, step: number): Promise<Manifest> {
  let value: Manifest & { checksum: string }
  try {
    value = JSON.parse(text) as typeof value
  } catch (error) {
    throw new Error(`${kManifest} is not JSON: ${(error as Error).message}`)
  }
  const { checksum, ...manifest } = value ?? {}
  if (checksum !== (await sha256(JSON.stringify(manifest)))) throw new Error(`${kManifest} does not match its own checksum`)
  if (manifest.format !== 'leanformer-checkpoint' || manifest.version !== 1) {
    throw new Error(
      `${kManifest} has format ${manifest.format} ${manifest.version}; this version reads leanformer-checkpoint 1`,
    )
  }
  if (manifest.step !== step) throw new Error(`${kManifest} is of step ${manifest.step}`)
  const missing = [kModel, kOptimizer, kState].filter((name) => !Object.hasOwn(manifest.files, name))
  if (missing.length > 0) throw new Error(`${kManifest} does not list ${missing.join(', ')}`)
  return manifest
}

async function verifyFile(path: string, name: string, expected: { bytes: number; sha256: string }): Promise<void> {
  const handle = await fs.open(join(path, name), 'r').catch((error: Error) => {
    throw new Error(`${name} cannot be opened: ${error.message}`)
  })
  try {
    const { size } = await handle.stat()
    if (size !== expected.bytes) throw new Error(`${name} has ${size} bytes in place of ${expected.bytes}`)
    const hash = await newHash()
    const buffer = Buffer.allocUnsafe(Math.min(kHashChunk, Math.max(1, size)))
    for (;;) {
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, null)
      if (bytesRead === 0) break
      hash.update(buffer.subarray(0, bytesRead))
    }
    if (hash.digest('hex') !== expected.sha256) throw new Error(`${name} does not match its checksum`)
  } finally {
    await handle.close()
  }
}

// JSON has no NaN, infinities, -0 and big integers; a state that holds them must come back bit for bit.
const kNumber = '$number'
const kBigInt = '$bigint'

export function encodeState(state: unknown): string {
  const encode = (value: unknown, where: string): unknown => {
    if (typeof value === 'number' && (!Number.isFinite(value) || Object.is(value, -0))) {
      return { [kNumber]: Object.is(value, -0) ? '-0' : String(value) }
    }
    if (typeof value === 'bigint') return { [kBigInt]: String(value) }
    if (value === null || ['number', 'string', 'boolean'].includes(typeof value)) return value
    if (Array.isArray(value)) return value.map((item, i) => encode(item, `${where}[${i}]`))
    const prototype: unknown = typeof value === 'object' ? Object.getPrototypeOf(value) : undefined
    if (prototype !== null && Object.prototype.toString.call(value) !== '[object Object]') {
      throw new LeanformerError(
        'ERR_ARGUMENT',
        `checkpoint: ${where} is ${value === undefined ? 'undefined' : Object.prototype.toString.call(value)}`,
        'state is plain data: numbers, strings, booleans, null, arrays, objects; arrays of numbers belong into tensors',
      )
    }
    const fields = Object.entries(value as object).filter(([, field]) => field !== undefined)
    return Object.fromEntries(fields.map(([key, field]) => [key, encode(field, `${where}.${key}`)]))
  }
  return JSON.stringify(encode(state, 'state'))
}

export function decodeState(text: string): unknown {
  return JSON.parse(text, (_key, value: unknown) => {
    if (typeof value !== 'object' || value === null) return value
    const { [kNumber]: number, [kBigInt]: bigint } = value as Record<string, string>
    if (number !== undefined) return Number(number)
    return bigint === undefined ? value : BigInt(bigint)
  })
}
