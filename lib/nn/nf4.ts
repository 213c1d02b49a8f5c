// NF4: a matrix as 4-bit codes of 16 quantiles of the normal distribution, each block of 64 numbers scaled by its largest
// magnitude; the scales themselves, less their mean, in 8 bits by the dynamic map with an f32 scale for 256 of them
// ("double quantisation"): 4 + 8/64 + 32/(64 * 256) = 4.127 bits a number, 4.5 without it.
// Source: Dettmers et al., arXiv 2305.14314. The code book is the published one, to its last digit; codes of two numbers
// share a byte, the first in the high half.
import type { DType } from '../native/dtype'
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import { cast } from '../ops/cast'
import { pad, split } from '../ops/concat'
import { abs, add, div, greater, maximum, mul, scale, sub } from '../ops/elementwise'
import { embedding } from '../ops/embedding'
import { max, mean } from '../ops/reductions'
import { reshape } from '../ops/reshape'
import { slice } from '../ops/slice'
import { scope } from '../tensor/scope'
import { run1, tensor, type Tensor } from '../tensor/tensor'
import { Constant, PackedWeight } from './packed_weight'

export const nf4Codes: readonly number[] = [
  -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]

/** Signed 8-bit codes whose steps grow with their size: 7 decades, 2^i midpoints in decade i, both signs, 0 and 1. */
export const dynamicCodes: readonly number[] = (() => {
  const codes = [0, 1]
  for (let i = 0; i < 7; ++i) {
    const count = 2 ** i
    for (let k = 0; k < count; ++k) {
      const midpoint = 0.1 + (0.9 * (k + 0.5)) / count
      codes.push(midpoint * 10 ** (i - 6), -midpoint * 10 ** (i - 6))
    }
  }
  return codes.sort((a, b) => a - b)
})()

export const nf4Block = 64
const kScaleBlock = 256

/** i32 [n] -> values of `codes` at these places, f32 [n, 1]. */
function lookUp(codes: readonly number[], places: Tensor): Tensor {
  return embedding(tensor(Float32Array.from(codes), [codes.length, 1], { device: places.device }), places)
}

/** Place of the nearest of 2^k ascending codes for each number of x [n], as i32 [n]; ties go down. */
export function nearestCode(x: Tensor, codes: readonly number[]): Tensor {
  const between = codes.slice(1).map((code, i) => (code + codes[i]) / 2)
  let place: Tensor | null = null
  for (let half = codes.length / 2; half >= 1; half /= 2) {
    const probe = place ? add(place, half - 1) : null
    const border = probe ? lookUp([...between, Infinity], probe).viewAs([x.size]) : tensor([between[half - 1]], [1], { device: x.device })
    const step = scale(cast(greater(x, border), 'i32'), half)
    place = place ? add(place, step) : step
  }
  return place!
}

export interface NF4Options {
  /** Scales in 8 bits; default true. */
  doubleQuantisation?: boolean
}

export class NF4Weight extends PackedWeight {
  /** u8: two codes a byte. */
  codes: Constant
  /** f32 [blocks], or u8 codes of them less their mean. */
  scales: Constant
  /** Of double quantisation: f32 scale of every 256 scales, and their mean [1]. */
  superScales: Constant | null
  offset: Constant | null
  readonly shape: readonly [number, number]

  /** Takes the numbers of `weight` f32 [out, in]; the tensor stays the caller's. */
  constructor(weight: Tensor, { doubleQuantisation = true }: NF4Options = {}) {
    super()
    if (weight.rank !== 2 || weight.size === 0) {
      throw new LeanformerError('ERR_SHAPE', `NF4: the weight has shape [${weight.shape.join(', ')}], needs a matrix`)
    }
    this.shape = weight.shape as [number, number]
    const parts = scope(() => noGrad(() => quantise(cast(weight, 'f32'), doubleQuantisation)))
    this.codes = new Constant(parts.codes)
    this.scales = new Constant(parts.scales)
    this.superScales = parts.superScales ? new Constant(parts.superScales) : null
    this.offset = parts.offset ? new Constant(parts.offset) : null
  }

  override forward(dtype: DType): Tensor {
    return noGrad(() => {
      return run1('dequantize_nibbles', [this.codes.tensor, this.blockScales()], { book: nf4Codes, block: nf4Block, shape: this.shape, dtype })
    })
  }

  /** The largest magnitude of each block, f32 [blocks]. */
  blockScales(): Tensor {
    const { scales, superScales, offset } = this
    if (!superScales || !offset) return scales.tensor
    const values = lookUp(dynamicCodes, cast(scales.tensor, 'i32'))
    const count = superScales.tensor.size
    const padded = padTo(values.viewAs([values.size]), count * kScaleBlock)
    const unfolded = mul(reshape(padded, [count, kScaleBlock]), reshape(superScales.tensor, [count, 1]))
    return add(slice(unfolded.viewAs([count * kScaleBlock]), [0], [values.size]), offset.tensor)
  }
}

const padTo = (x: Tensor, size: number) => (x.size === size ? x : pad(x, [[0, size - x.size]]))

/** Each row of x [rows, n] over its largest magnitude (or over 1 where it is all zeros). */
function normalised(x: Tensor): { unit: Tensor; scales: Tensor } {
  const scales = max(abs(x), [1], { keepdims: true })
  return { unit: div(x, maximum(scales, tensor([1e-38], [1, 1], { device: x.device }))), scales: scales.viewAs([scales.size]) }
}

function quantise(weight: Tensor, double: boolean): { codes: Tensor; scales: Tensor; superScales: Tensor | null; offset: Tensor | null } {
  const blocks = Math.ceil(weight.size / nf4Block)
  const { unit, scales } = normalised(reshape(padTo(weight.viewAs([weight.size]), blocks * nf4Block), [blocks, nf4Block]))
  const places = nearestCode(unit.viewAs([unit.size]), nf4Codes)
  const [high, low] = split(reshape(places, [places.size / 2, 2]), 1, 1)
  const codes = cast(add(scale(high, 16), low), 'u8').viewAs([places.size / 2])
  if (!double) return { codes, scales, superScales: null, offset: null }
  const offset = mean(scales, null, { keepdims: true })
  const count = Math.ceil(blocks / kScaleBlock)
  const centred = reshape(padTo(sub(scales, offset), count * kScaleBlock), [count, kScaleBlock])
  const { unit: unitScales, scales: superScales } = normalised(centred)
  const scaleCodes = cast(nearestCode(unitScales.viewAs([unitScales.size]), dynamicCodes), 'u8')
  return { codes, scales: slice(scaleCodes, [0], [blocks]), superScales, offset }
}
