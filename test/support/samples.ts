// Inputs of operator cases: seeded, so that every run and every device sees the same numbers, and rounded to the tested
// dtype, so that the float64 reference sees exactly what the kernel sees.
import type { DType } from '../../lib/native/dtype'
import type { Device } from '../../lib/tensor/device'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { isFloating } from '../../lib/native/dtype'
import { roundTo } from './tolerance'

// Globals are slow to reach from within jest.
const { cos, fround, imul, log, sqrt, PI } = Math

/** A dense row-major array of the reference. */
export interface HostTensor {
  shape: readonly number[]
  data: Float64Array
}

export interface Random {
  /** In [low, high). */
  uniform(low: number, high: number): number
  normal(): number
}

/** How one element is drawn. */
export type Draw = (random: Random, index: number) => number

export const uniform = (low: number, high: number): Draw => (random) => random.uniform(low, high)
/** Whole numbers in [low, high). */
export const integers = (low: number, high: number): Draw => (random) => Math.floor(random.uniform(low, high))
/** Normal numbers at least `gap` away from 0, for functions with a kink there. */
export const awayFromZero = (gap = 0.05): Draw => (random) => {
  const x = random.normal()
  return x + (x < 0 ? -gap : gap)
}

export interface InputOptions {
  shape: readonly number[]
  /** Elements: given, or drawn. Normal by default. */
  values?: readonly number[] | Draw
  /** Fixed format; otherwise the tested one. Integer inputs have no gradient. */
  dtype?: DType
  /** false: a floating input without gradient. */
  grad?: boolean
}

/** A shape alone stands for normal numbers of the tested dtype; null for an absent optional input. */
export type InputSpec = readonly number[] | InputOptions | null

export interface Prepared extends HostTensor {
  dtype: DType
  grad: boolean
}

export const count = (shape: readonly number[]) => shape.reduce((n, d) => n * d, 1)

/** A host tensor from its elements or from a function of the flat index. */
export function host(shape: readonly number[], data: ArrayLike<number> | ((index: number) => number)): HostTensor {
  const n = count(shape)
  if (typeof data === 'function') {
    const values = new Float64Array(n)
    for (let i = 0; i < n; ++i) values[i] = data(i)
    return { shape, data: values }
  }
  if (data.length !== n) throw new Error(`reference: shape [${shape.join(', ')}] needs ${n} numbers, got ${data.length}`)
  return { shape, data: Float64Array.from(data) }
}

function seededRandom(seed: string): Random {
  let state = 2166136261
  for (let i = 0; i < seed.length; ++i) state = imul(state ^ seed.charCodeAt(i), 16777619)
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let t = imul(state ^ (state >>> 15), 1 | state)
    t = (t + imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  return {
    uniform: (low, high) => low + (high - low) * next(),
    normal: () => sqrt(-2 * log(1 - next())) * cos(2 * PI * next()),
  }
}

/** The numbers of all inputs of one sample, in the formats they will have. */
export function prepare(seed: string, specs: readonly InputSpec[], tested: DType): (Prepared | null)[] {
  return specs.map((spec, i) => {
    if (spec === null) return null
    const options: InputOptions = Array.isArray(spec) ? { shape: spec } : (spec as InputOptions)
    const { shape, values = (random: Random) => random.normal() } = options
    const dtype = options.dtype ?? tested
    const random = seededRandom(`${seed}/${i}`)
    const raw = typeof values === 'function' ? host(shape, (k) => values(random, k)) : host(shape, values)
    const { data } = raw
    if (dtype === 'f32') for (let k = 0; k < data.length; ++k) data[k] = fround(data[k])
    else if (dtype !== 'f64') for (let k = 0; k < data.length; ++k) data[k] = roundTo(dtype, data[k])
    return {
      shape,
      dtype,
      data,
      grad: isFloating(dtype) && options.grad !== false,
    }
  })
}

export function toDevice(input: Prepared, device: Device, dtype: DType = input.dtype, requiresGrad = false): Tensor {
  const data = dtype === 'f32' ? new Float32Array(input.data) : input.data
  return tensor(data, input.shape, { dtype, device, requiresGrad })
}

/** Weights of a sum over one output, the starting gradient of backward(). */
export function seedWeights(seed: string, shape: readonly number[], dtype: DType): Prepared {
  const random = seededRandom(`${seed}/weights`)
  return { shape, dtype, grad: false, data: host(shape, () => roundTo(dtype, random.uniform(-1, 1))).data }
}
