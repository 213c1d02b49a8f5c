// The one way into the addon for operators: packs an operator's number, its inputs' handles and its attributes into a
// shared Float64Array, and unpacks the handles and shapes of the results.
import { addon } from './binding'
import { errorCodes, LeanformerError, type NativeErrorCode } from './errors'
import { opTable, opTableHash, type OpAttrs, type OpName } from './ops.gen'

export interface RawTensor {
  handle: number
  dtype: number
  shape: number[]
}

const words = new Float64Array(1 << 16)
const pending = new Map<number, { resolve: () => void; reject: (error: Error) => void }>()
let nextId = 1

if (addon.opsHash() !== opTableHash) {
  throw new LeanformerError(
    'ERR_BACKEND_LOAD',
    'the native addon and the TypeScript code come from different versions: their operator tables differ',
    'run `npm rebuild leanformer`, or in a checkout `npm run build:native && npm run build`',
  )
}

addon.init(words, (id, code, message, hint) => {
  const wait = pending.get(id)
  pending.delete(id)
  if (code === 0) wait?.resolve()
  else wait?.reject(asyncError(code, message, hint))
})

export type Encoder = (value: unknown, at: number, op: string, name: string) => number

function wrongAttribute(op: string, name: string, expected: string, value: unknown): never {
  const code = value === undefined ? 'is missing' : `must be ${expected}, got ${JSON.stringify(value) ?? String(value)}`
  throw new LeanformerError('ERR_ARGUMENT', `${op}: ${name} ${code}`, `${name} is ${expected}`)
}

function encodeNumber(value: unknown, at: number, op: string, name: string): number {
  if (typeof value !== 'number') wrongAttribute(op, name, 'a number', value)
  words[at] = value
  return at + 1
}

function encodeFlag(value: unknown, at: number, op: string, name: string): number {
  if (typeof value !== 'boolean') wrongAttribute(op, name, 'true or false', value)
  words[at] = value ? 1 : 0
  return at + 1
}

function encodeList(value: unknown, at: number, op: string, name: string): number {
  if (!Array.isArray(value)) wrongAttribute(op, name, 'a list of numbers', value)
  words[at++] = value.length
  for (const item of value) words[at++] = item
  return at
}

function choiceEncoder(choices: readonly string[]): Encoder {
  const index = new Map(choices.map((choice, i) => [choice, i]))
  return (value, at, op, name) => {
    const found = index.get(value as string)
    if (found === undefined) wrongAttribute(op, name, `one of ${choices.join(', ')}`, value)
    words[at] = found
    return at + 1
  }
}

interface Operator {
  id: number
  attrs: { name: string; encode: Encoder }[]
  /** Positions of inputs written in place; a variadic group counts from its first position on. */
  mutated: { position: number; variadic: boolean }[]
}

const encoders: Record<string, Encoder> = {
  number: encodeNumber,
  integer: encodeNumber,
  flag: encodeFlag,
  integers: encodeList,
  numbers: encodeList,
}

const operators = new Map<string, Operator>(
  opTable.map((op, id) => [
    op.name,
    {
      id,
      attrs: op.attrs.map((attr) => ({
        name: attr.name,
        encode: attr.choices ? choiceEncoder(attr.choices) : encoders[attr.type],
      })),
      mutated: op.inputs.flatMap((input, position) =>
        input.mutated ? [{ position, variadic: input.variadic }] : [],
      ),
    },
  ]),
)

function asyncError(code: number, message: string, hint: string): LeanformerError {
  return new LeanformerError(errorCodes[code] as NativeErrorCode, message, hint || undefined)
}

/** The error for a non-zero code that the addon returned. */
export function nativeError(code: number): LeanformerError {
  const [message, hint] = addon.lastError()
  return asyncError(code, message, hint)
}

function readTensor(at: number): [RawTensor, number] {
  const rank = words[at + 2]
  const shape = new Array<number>(rank)
  for (let i = 0; i < rank; ++i) shape[i] = words[at + 3 + i]
  return [{ handle: words[at], dtype: words[at + 1], shape }, at + 3 + rank]
}

/** Positions of the inputs that an operator writes in place, among `count` inputs. */
export function mutatedInputs(name: OpName, count: number): number[] {
  const out: number[] = []
  for (const { position, variadic } of operators.get(name)!.mutated) {
    for (let i = position; i < (variadic ? count : position + 1); ++i) out.push(i)
  }
  return out
}

/**
 * Enqueues one operator. `handles` holds 0 for an absent optional input; `device` is -1 to take the inputs' device.
 * Throws for bad arguments; errors while it runs reject the next read or fence.
 */
export function callOp<N extends OpName>(name: N, handles: readonly number[], attrs: OpAttrs[N], device = -1): RawTensor[] {
  const op = operators.get(name)!
  if (handles.length + 256 > words.length) {
    throw new LeanformerError('ERR_ARGUMENT', `${name}: ${handles.length} inputs are too many for one call`, 'split the call')
  }
  let at = 3
  words[0] = op.id
  words[1] = device
  words[2] = handles.length
  for (let i = 0; i < handles.length; ++i) words[at++] = handles[i]
  for (const attr of op.attrs) at = attr.encode((attrs as Record<string, unknown>)[attr.name], at, name, attr.name)
  const code = addon.call(at)
  if (code !== 0) throw nativeError(code)
  const count = words[0]
  const out = new Array<RawTensor>(count)
  at = 1
  for (let i = 0; i < count; ++i) [out[i], at] = readTensor(at)
  return out
}

/** A second tensor over the same memory, from element `offset` on. */
export function viewOf(handle: number, offset: number, shape: readonly number[]): RawTensor {
  words[0] = handle
  words[1] = offset
  putShape(2, shape)
  const code = addon.view()
  if (code !== 0) throw nativeError(code)
  return readTensor(0)[0]
}

/** The same numbers on another device. */
export function copyTo(handle: number, device: number): RawTensor {
  words[0] = handle
  words[1] = device
  const code = addon.copyTo()
  if (code !== 0) throw nativeError(code)
  return readTensor(0)[0]
}

/** A tensor with these bytes, already in the format `dtype` (a position in `dtypes`). */
export function createFrom(device: number, dtype: number, shape: readonly number[], bytes: Uint8Array): RawTensor {
  words[0] = device
  words[1] = dtype
  putShape(2, shape)
  const code = addon.create(bytes)
  if (code !== 0) throw nativeError(code)
  return readTensor(0)[0]
}

function putShape(at: number, shape: readonly number[]): void {
  if (shape.length > 8) throw new LeanformerError('ERR_SHAPE', `shape [${shape.join(', ')}] has more than 8 axes`)
  words[at] = shape.length
  for (let i = 0; i < shape.length; ++i) words[at + 1 + i] = shape[i]
}

/** The number that the addon's last function left beside its code. */
export function resultOfCall(): number {
  return words[0]
}

export function releaseHandle(handle: number): void {
  addon.release(handle)
}

function wait(start: (id: number) => number): Promise<void> {
  const id = nextId++
  const code = start(id)
  if (code !== 0) return Promise.reject(nativeError(code))
  return new Promise((resolve, reject) => pending.set(id, { resolve, reject }))
}

/** Copies a tensor's bytes to the host once everything before it is done. */
export function readInto(handle: number, bytes: Uint8Array): Promise<void> {
  // The closure keeps `bytes` alive until the copy has arrived.
  return wait((id) => addon.read(handle, bytes, id)).then(() => void bytes)
}

const statNames = [
  'liveBytes',
  'peakBytes',
  'reservedBytes',
  'liveBlocks',
  'limitBytes',
  'flops',
  'bytesRead',
  'bytesWritten',
  'busySeconds',
  'kernels',
  'graphReplays',
  'branches',
  'copies',
  'copiedBytes',
  'kernelsBesideCopies',
  'lockedBytes',
  'waitedSeconds',
] as const
export type DeviceStats = Record<(typeof statNames)[number], number>

function namedStats(values: Float64Array): DeviceStats {
  return Object.fromEntries(statNames.map((name, i) => [name, values[i]])) as DeviceStats
}

/** Resolves, with the device's statistics at that point, when everything enqueued so far is done; rejects with the
 * stream's first error. */
export function fence(device: number): Promise<DeviceStats> {
  const values = new Float64Array(statNames.length)
  return wait((id) => addon.fence(device, id, values)).then(() => namedStats(values))
}

/** The same, blocking the JavaScript thread, and without an error. */
export function statsNow(device: number): DeviceStats {
  const values = new Float64Array(statNames.length)
  addon.stats(device, values)
  return namedStats(values)
}
