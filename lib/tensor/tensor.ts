// A dense tensor: shape, dtype, device and an integer handle to native memory. The numbers live on the device; data()
// brings them here. Operators are functions in lib/ops.
import { callOp, copyTo, createFrom, mutatedInputs, readInto, releaseHandle, viewOf, type RawTensor } from '../native/call'
import { LeanformerError } from '../native/errors'
import type { OpAttrs, OpName } from '../native/ops.gen'
import { checkDType, dtypes, newHostArray, type DType, type HostArray } from '../native/dtype'
import { getDevice, deviceByNumber, type Device } from './device'
import { bf16ToNumber, f16ToNumber, numberToBf16, numberToF16 } from './half'
import { currentScope, type Scope } from './scope'

// One native handle, shared by a tensor and its aliases; released with the last of them.
interface Slot {
  handle: number
  uses: number
  version: number
  /** Whether another handle was made for the same memory. */
  viewed: boolean
  recipe: Recipe | null
}

/** @internal How a tensor can be made again; see remakeFrom() in autograd/tape.ts. */
export interface Recipe {
  /** Aliases that belong to the recipe. */
  inputs: (Tensor | null)[]
  make(inputs: (Tensor | null)[]): Tensor
}

let nextId = 1
const abandoned = new FinalizationRegistry<Slot>((slot) => dropSlot(slot))

function dropSlot(slot: Slot): void {
  if (--slot.uses > 0) return
  releaseHandle(slot.handle)
  dropRecipe(slot)
}

function dropRecipe(slot: Slot): void {
  for (const input of slot.recipe?.inputs ?? []) input?.dispose()
  slot.recipe = null
}

export class Tensor {
  readonly shape: readonly number[]
  readonly dtype: DType
  readonly device: Device
  /** Identity for differentiation; aliases share it. */
  readonly id: number
  /** Whether gradients flow to this tensor. Set it on leaves; operators set it on results. */
  requiresGrad = false
  /** The gradient of a leaf after backward(), in its own dtype or in gradDType. */
  grad: Tensor | null = null
  /** Format of a leaf's gradient where it is not the leaf's own. */
  gradDType: DType | null = null
  /** @internal The leaf that receives the gradients of this tensor: itself, or the master of a low-precision copy. */
  leaf: Tensor | null = null
  /** @internal */ owner: Scope | null = null
  /** @internal The starting gradient of backward(), known to be 1 without looking. */
  isOne = false
  private slot: Slot | null

  /** @internal Use tensor(), zeros() and the like. */
  constructor(slot: Slot, raw: { dtype: DType; shape: readonly number[]; device: Device }, id: number) {
    this.slot = slot
    this.shape = raw.shape
    this.dtype = raw.dtype
    this.device = raw.device
    this.id = id
    const scope = currentScope()
    if (scope) scope.add(this)
    else abandoned.register(this, slot, this)
  }

  /** Number of elements. */
  get size(): number {
    let n = 1
    for (const d of this.shape) n *= d
    return n
  }

  get rank(): number {
    return this.shape.length
  }

  get disposed(): boolean {
    return this.slot === null
  }

  /** @internal */
  get handle(): number {
    if (this.slot === null) {
      throw new LeanformerError(
        'ERR_DISPOSED',
        `a tensor of shape [${this.shape.join(', ')}] was used after it was disposed`,
        'return it from its scope(), or keep() it, if it must live longer',
      )
    }
    return this.slot.handle
  }

  /** @internal Whether no other tensor object sees this memory. */
  get ownsMemory(): boolean {
    return this.slot !== null && this.slot.uses === 1 && !this.slot.viewed
  }

  /** @internal Counts in-place writes, so that the tape notices when something it saved has changed. */
  get version(): number {
    return this.slot ? this.slot.version : -1
  }

  /** @internal */
  bumpVersion(): void {
    if (!this.slot) return
    this.slot.version++
    dropRecipe(this.slot)
  }

  /** @internal */
  get recipe(): Recipe | null {
    return this.slot?.recipe ?? null
  }

  /** @internal */
  set recipe(recipe: Recipe) {
    void this.handle
    this.slot!.recipe = recipe
  }

  /** @internal Another tensor object for the same memory and the same identity; disposed on its own. */
  alias(): Tensor {
    void this.handle
    this.slot!.uses++
    const out = new Tensor(this.slot!, this, this.id)
    out.requiresGrad = this.requiresGrad
    out.leaf = this.leaf
    return out
  }

  /** The same numbers with an identity of its own: gradients do not flow through it. Shares memory. */
  detach(): Tensor {
    void this.handle
    this.slot!.uses++
    return new Tensor(this.slot!, this, nextId++)
  }

  /** @internal The same memory read as another shape, from element `offset` on. Not recorded on the tape. */
  viewAs(shape: readonly number[], offset = 0): Tensor {
    const out = wrap(viewOf(this.handle, offset, shape), this.device)
    this.slot!.viewed = out.slot!.viewed = true
    return out
  }

  /** Releases the memory when no alias needs it. Calling it twice does nothing. */
  dispose(): void {
    if (this.slot === null) return
    if (this.owner === null) abandoned.unregister(this)
    const slot = this.slot
    this.slot = null
    this.owner = null
    dropSlot(slot)
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /** The elements, once computed: Float32Array for f32, Uint16Array bit patterns for f16 and bf16, and so on. */
  async data(): Promise<HostArray> {
    const out = newHostArray(this.dtype, this.size)
    await readInto(this.handle, new Uint8Array(out.buffer))
    return out
  }

  /** The elements as numbers of f32 (f64 stays exact in toFloat64()). */
  async toFloat32(): Promise<Float32Array> {
    const data = await this.data()
    return this.dtype === 'f32' ? (data as Float32Array) : Float32Array.from(decode(this.dtype, data))
  }

  async toFloat64(): Promise<Float64Array> {
    const data = await this.data()
    return this.dtype === 'f64' ? (data as Float64Array) : Float64Array.from(decode(this.dtype, data))
  }

  /** The one number of a tensor with one element. */
  async item(): Promise<number> {
    if (this.size !== 1) {
      throw new LeanformerError(
        'ERR_SHAPE',
        `item: shape [${this.shape.join(', ')}] has ${this.size} elements, needs exactly 1`,
        'use data() for more elements',
      )
    }
    return (await this.toFloat64())[0]
  }

  toString(): string {
    return `Tensor(${this.dtype} [${this.shape.join(', ')}] on ${this.device.name})`
  }
}

/** @internal Host data of a format as numbers. */
export function decode(dtype: DType, data: HostArray): ArrayLike<number> {
  if (dtype === 'f16') return Array.from(data as Uint16Array, f16ToNumber)
  if (dtype === 'bf16') return Array.from(data as Uint16Array, bf16ToNumber)
  if (dtype === 'i64') return Array.from(data as BigInt64Array, Number)
  return data as ArrayLike<number>
}

function wrap(raw: RawTensor, device: Device): Tensor {
  const slot = { handle: raw.handle, uses: 1, version: 0, viewed: false, recipe: null }
  return new Tensor(slot, { dtype: dtypes[raw.dtype], shape: raw.shape, device }, nextId++)
}

/** @internal The same numbers in memory of another device; does not touch the tape. */
export function copyToDevice(x: Tensor, device: Device): Tensor {
  return wrap(copyTo(x.handle, device.number), device)
}

export function isTensor(value: unknown): value is Tensor {
  return value instanceof Tensor
}

/**
 * Enqueues a native operator on tensors and wraps its results; does not touch the tape. `null` stands for an absent
 * optional input. `device` is needed only by operators without inputs.
 */
export function run<N extends OpName>(
  name: N,
  inputs: readonly (Tensor | null | undefined)[],
  attrs: OpAttrs[N],
  device?: Device,
): Tensor[] {
  const handles = new Array<number>(inputs.length)
  let where = device
  for (let i = 0; i < inputs.length; ++i) {
    const input = inputs[i]
    if (input === null || input === undefined) handles[i] = 0
    else {
      if (!(input instanceof Tensor)) {
        throw new LeanformerError('ERR_ARGUMENT', `${name}: input ${i} is not a tensor`, 'wrap numbers with tensor(...)')
      }
      handles[i] = input.handle
      where ??= input.device
    }
  }
  const raw = callOp(name, handles, attrs, device ? device.number : -1)
  for (const i of mutatedInputs(name, inputs.length)) inputs[i]?.bumpVersion()
  const out = new Array<Tensor>(raw.length)
  for (let i = 0; i < raw.length; ++i) out[i] = wrap(raw[i], where ?? deviceByNumber(0))
  return out
}

/** run() for operators with one result. */
export function run1<N extends OpName>(
  name: N,
  inputs: readonly (Tensor | null | undefined)[],
  attrs: OpAttrs[N],
  device?: Device,
): Tensor {
  return run(name, inputs, attrs, device)[0]
}

export type NestedNumbers = number | boolean | readonly NestedNumbers[]
export interface TensorOptions {
  dtype?: DType
  device?: string | Device
  requiresGrad?: boolean
}

const defaultDTypes: [RegExp, DType][] = [
  [/Float32Array/, 'f32'],
  [/Float64Array/, 'f64'],
  [/Float16Array/, 'f16'],
  [/BigInt64Array/, 'i64'],
  [/Int32Array/, 'i32'],
  [/Int8Array/, 'i8'],
  [/Uint8(Clamped)?Array/, 'u8'],
]

/**
 * A tensor from numbers. `data` is a number, nested arrays, or a typed array with `shape`. Typed arrays choose their own
 * dtype (f32 for anything else); a Uint16Array needs `dtype` 'f16' or 'bf16' and holds bit patterns.
 */
export function tensor(data: NestedNumbers | ArrayBufferView, shape?: readonly number[] | null, options: TensorOptions = {}): Tensor {
  const device = getDevice(options.device)
  let dtype = options.dtype === undefined ? undefined : checkDType(options.dtype)
  let flat: ArrayLike<number | bigint>
  let dims: readonly number[]
  if (ArrayBuffer.isView(data)) {
    flat = data as unknown as ArrayLike<number>
    dims = shape ?? [flat.length]
    const kind = Object.prototype.toString.call(data)
    dtype ??= defaultDTypes.find(([pattern]) => pattern.test(kind))?.[1]
    if (!dtype) throw new LeanformerError('ERR_DTYPE', `tensor: a ${kind.slice(8, -1)} needs a dtype`, "for bit patterns: { dtype: 'bf16' } or { dtype: 'f16' }")
  } else {
    const list: number[] = []
    const inferred = flatten(data, list)
    flat = list
    dims = shape ?? inferred
    dtype ??= 'f32'
  }
  const size = dims.reduce((n, d) => n * d, 1)
  if (size !== flat.length) {
    throw new LeanformerError('ERR_SHAPE', `tensor: shape [${dims.join(', ')}] needs ${size} numbers, got ${flat.length}`)
  }
  const out = wrap(createFrom(device.number, dtypes.indexOf(dtype), dims, encode(dtype, flat)), device)
  if (options.requiresGrad) setRequiresGrad(out)
  return out
}

/** Makes a tensor a leaf that collects gradients. Returns it. */
export function setRequiresGrad(leaf: Tensor): Tensor {
  leaf.requiresGrad = true
  leaf.leaf = leaf
  return leaf
}

function flatten(data: NestedNumbers, out: number[]): number[] {
  if (typeof data === 'number' || typeof data === 'boolean') {
    out.push(Number(data))
    return []
  }
  if (!Array.isArray(data)) throw new LeanformerError('ERR_ARGUMENT', 'tensor: data must be numbers, nested arrays or a typed array')
  let inner: number[] | null = null
  for (const item of data) {
    const shape = flatten(item, out)
    if (inner && inner.join() !== shape.join()) {
      throw new LeanformerError('ERR_SHAPE', `tensor: nested arrays differ in shape: [${inner.join(', ')}] and [${shape.join(', ')}]`)
    }
    inner = shape
  }
  return [data.length, ...(inner ?? [])]
}

function encode(dtype: DType, flat: ArrayLike<number | bigint>): Uint8Array {
  if (ArrayBuffer.isView(flat)) {
    const kind = Object.prototype.toString.call(flat)
    const own = defaultDTypes.find(([pattern]) => pattern.test(kind))?.[1]
    const same = own === dtype || (dtype === 'bool' && own === 'u8') || /Uint16Array/.test(kind)
    if (same) return new Uint8Array(flat.buffer, flat.byteOffset, flat.byteLength)
  }
  const out = newHostArray(dtype, flat.length)
  for (let i = 0; i < flat.length; ++i) {
    const value = flat[i]
    if (dtype === 'f16') out[i] = numberToF16(Number(value))
    else if (dtype === 'bf16') out[i] = numberToBf16(Number(value))
    else if (dtype === 'i64') out[i] = BigInt(value)
    else if (dtype === 'bool') out[i] = value ? 1 : 0
    else out[i] = Number(value)
  }
  return new Uint8Array(out.buffer)
}
