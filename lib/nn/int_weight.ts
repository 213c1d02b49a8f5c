// A matrix as whole numbers of 8 or 4 bits with one f32 scale for each row or for each group of inputs in a row:
//   w = s q, s = max |w| / (2^(bits-1) - 1), q = round(w / s) to even.
// Codes of 4 bits share a byte, the first in the high half, each 8 above its number. A calibration may shrink the scales:
// then q is clamped, and s minimises sum_j importance_j (w_j - s q_j)^2 over some shares of the largest magnitude.
// Source: Wu et al., arXiv 2004.09602; importance by activations: Lin et al., arXiv 2306.00978.
import type { DType } from '../native/dtype'
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import { cast } from '../ops/cast'
import { split, stack } from '../ops/concat'
import { copy } from '../ops/copy'
import { abs, add, div, floor, greater, maximum, minimum, mul, scale, square, sub } from '../ops/elementwise'
import { max, sum } from '../ops/reductions'
import { reshape } from '../ops/reshape'
import { where } from '../ops/where'
import { scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import { Constant, PackedWeight } from './packed_weight'

export interface IntOptions {
  bits: 8 | 4
  /** Inputs that share a scale; divides their number. 0 (default): a whole row. */
  group?: number
  /** f32 [in]: how much an error in each column matters, such as the mean square of its input; null for plain rounding. */
  importance?: Tensor | null
  /** f32 [1], [out] or, with `group`, [groups]: the scales of codes that are given in place of the weight, i8 from -2^(bits-1) to 2^(bits-1) - 1. */
  scales?: Tensor | null
}

/** x rounded to whole numbers, halves to even; f32 and f64, |x| below 2^22. */
export function roundEven(x: Tensor): Tensor {
  // Beyond this number neighbours differ by 1: adding it rounds, in the order of IEEE 754.
  const big = x.dtype === 'f64' ? 1.5 * 2 ** 52 : 1.5 * 2 ** 23
  return scale(scale(x, 1, big), 1, -big)
}

/** The scales [groups, 1] of w [groups, n] for numbers up to `top`. */
function scalesOf(w: Tensor, top: number, importance: Tensor | null): Tensor {
  const largest = maximum(max(abs(w), [1], { keepdims: true }), tensor([1e-30], [1, 1], { device: w.device, dtype: w.dtype }))
  const plain = scale(largest, 1 / top)
  if (!importance) return plain
  let best = plain
  let least = errorOf(w, plain, top, importance)
  for (let share = 0.95; share > 0.45; share -= 0.05) {
    const tried = scale(plain, share)
    const error = errorOf(w, tried, top, importance)
    best = where(greater(least, error), tried, best)
    least = minimum(least, error)
  }
  return best
}

const codesOf = (w: Tensor, scales: Tensor, top: number) => clamp(roundEven(div(w, scales)), -top, top)
const errorOf = (w: Tensor, scales: Tensor, top: number, importance: Tensor) =>
  sum(mul(square(sub(w, mul(codesOf(w, scales, top), scales))), importance), [1], { keepdims: true })

/** x kept within low and high. */
export function clamp(x: Tensor, low: number, high: number): Tensor {
  const like = (value: number) => tensor([value], [1], { device: x.device, dtype: x.dtype })
  return minimum(maximum(x, like(low)), like(high))
}

export class IntWeight extends PackedWeight {
  /** i8 [out, in], or u8 [out in / 2]. */
  codes: Constant
  /** f32 [groups, 1], in the order of the rows. */
  scales: Constant
  readonly shape: readonly [number, number]
  readonly bits: 8 | 4
  readonly group: number

  /** Takes the numbers of `weight` [out, in], or, with `scales`, its codes; the tensors stay the caller's. */
  constructor(weight: Tensor, { bits, group = 0, importance = null, scales = null }: IntOptions) {
    super()
    const [rows, columns] = weight.shape
    this.group = group || (scales?.size === 1 ? rows * columns : columns)
    if (weight.rank !== 2 || (columns % this.group !== 0 && this.group !== rows * columns) || (bits === 4 && columns % 2 !== 0)) {
      throw new LeanformerError('ERR_SHAPE', `IntWeight: groups of ${this.group} do not suit shape [${weight.shape.join(', ')}]`, 'give a group that divides the number of inputs')
    }
    this.shape = [rows, columns]
    this.bits = bits
    const top = 2 ** (bits - 1) - 1
    const made = scope(() =>
      noGrad(() => {
        if (scales) return { codes: bits === 8 ? copy(weight) : pair(cast(weight, 'f32')), scales: copy(reshape(scales, [scales.size, 1])) }
        const groups = (rows * columns) / this.group
        const w = reshape(cast(weight, 'f32'), [groups, this.group])
        const each = importance ? this.perGroup(importance, rows) : null
        const found = scalesOf(w, top, each)
        const whole = codesOf(w, found, top)
        return { codes: bits === 8 ? cast(reshape(whole, [rows, columns]), 'i8') : pair(whole), scales: found }
      }),
    )
    this.codes = new Constant(made.codes)
    this.scales = new Constant(made.scales)
  }

  /** i8 codes and f32 scales as int8Matmul() takes them. @throws ERR_ARGUMENT with more than one scale a row */
  rows(): { codes: Tensor; scales: Tensor } {
    const scales = this.scales.tensor
    if (scales.size !== 1 && scales.size !== this.shape[0]) {
      throw new LeanformerError('ERR_ARGUMENT', 'IntWeight: an integer product takes one scale a row', 'pack the weight without groups')
    }
    const codes = this.bits === 8 ? this.codes.tensor : scope(() => noGrad(() => cast(reshape(unpair(cast(this.codes.tensor, 'f32')), this.shape), 'i8')))
    return { codes, scales: scales.viewAs([scales.size]) }
  }

  override forward(dtype: DType): Tensor {
    return noGrad(() => {
      const codes = cast(this.codes.tensor, 'f32')
      const numbers = this.bits === 8 ? codes : unpair(codes)
      const groups = this.scales.tensor.shape[0]
      return cast(reshape(mul(reshape(numbers, [groups, this.group]), this.scales.tensor), this.shape), dtype)
    })
  }

  private perGroup(importance: Tensor, rows: number): Tensor {
    const perRow = reshape(cast(importance, 'f32'), [importance.size / this.group, this.group])
    return reshape(stack(Array.from({ length: rows }, () => perRow)), [(rows * importance.size) / this.group, this.group])
  }
}

/** Whole numbers from -8 to 7 as bytes of two. */
function pair(whole: Tensor): Tensor {
  const [high, low] = split(reshape(scale(whole, 1, 8), [whole.size / 2, 2]), 1, 1)
  return reshape(cast(add(scale(high, 16), low), 'u8'), [whole.size / 2])
}

function unpair(bytes: Tensor): Tensor {
  const high = floor(scale(bytes, 1 / 16))
  const low = sub(bytes, scale(high, 16))
  return scale(stack([high, low], 1), 1, -8)
}
