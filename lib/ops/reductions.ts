// Reductions over any axes: one number, a list, or all of them when left out. Negative axes count from the end; keepdims
// leaves axes of size 1 behind.
import { record } from '../autograd/tape'
import { isFloating } from '../native/dtype'
import { run1, type Tensor } from '../tensor/tensor'
import { inFormatOf, like } from './broadcast'
import { mulScalar, square, sub } from './elementwise'

export type Axes = number | readonly number[]
export interface ReductionOptions {
  keepdims?: boolean
}

type Reduction = 'sum' | 'mean' | 'prod' | 'max' | 'min' | 'argmax' | 'argmin' | 'log_sum_exp'

function listed(x: Tensor, axes: Axes | null | undefined): number[] {
  if (axes === undefined || axes === null) return x.shape.map((_, axis) => axis)
  return typeof axes === 'number' ? [axes] : [...axes]
}

/** The shape of a reduction with keepdims. */
function keptShape(shape: readonly number[], axes: readonly number[]): number[] {
  const gone = new Set(axes.map((axis) => (axis < 0 ? axis + shape.length : axis)))
  return shape.map((size, axis) => (gone.has(axis) ? 1 : size))
}

const elements = (shape: readonly number[]) => shape.reduce((n, d) => n * d, 1)

function reduce(op: Reduction, x: Tensor, axes: number[], options: ReductionOptions): Tensor {
  return run1(op, [x], { axes, keepdims: options.keepdims ?? false })
}

const expand = (grad: Tensor, shape: readonly number[]) => run1('broadcast_to', [grad], { shape: [...shape] })

/** Sum. Integers and bool give i64. f32 and 16-bit sums are carried in f64. */
export function sum(x: Tensor, axes?: Axes | null, options: ReductionOptions = {}): Tensor {
  const list = listed(x, axes)
  const y = reduce('sum', x, list, options)
  if (!isFloating(x.dtype)) return y
  const { shape } = x
  record('sum', [x], [y], [], ([grad]) => [expand(grad!.viewAs(keptShape(shape, list)), shape)])
  return y
}

/** Mean; NaN of no elements. Floating formats. */
export function mean(x: Tensor, axes?: Axes | null, options: ReductionOptions = {}): Tensor {
  const list = listed(x, axes)
  const y = reduce('mean', x, list, options)
  const { shape } = x
  record('mean', [x], [y], [], ([grad]) => {
    const kept = keptShape(shape, list)
    const factor = elements(kept) / elements(shape)
    return [expand(run1('scale', [grad!.viewAs(kept)], { factor: Number.isFinite(factor) ? factor : 0, offset: 0 }), shape)]
  })
  return y
}

/** Product. Integers and bool give i64. */
export function prod(x: Tensor, axes?: Axes | null, options: ReductionOptions = {}): Tensor {
  const list = listed(x, axes)
  const y = reduce('prod', x, list, options)
  if (!isFloating(x.dtype)) return y
  record('prod', [x], [y], [x], ([grad], [a]) => {
    // dx_i = dy * product of the others. With one zero among them only the zero's own derivative is not 0; with more, none.
    const g = inFormatOf(grad!, a).viewAs(keptShape(a.shape, list))
    const isZero = run1('eq', [a, like(a, 0)], {})
    const nonzero = run1('where', [isZero, like(a, 1), a], {})
    const product = run1('prod', [nonzero], { axes: list, keepdims: true })
    const zeros = run1('sum', [isZero], { axes: list, keepdims: true })
    const allZerosHere = run1('eq', [zeros, run1('cast', [isZero], { dtype: 'i64' })], {})
    const others = run1('div', [run1('mul', [g, product], {}), nonzero], {})
    return [run1('where', [allZerosHere, others, like(a, 0)], {})]
  })
  return y
}

function extremum(op: 'max' | 'min') {
  return (x: Tensor, axes?: Axes | null, options: ReductionOptions = {}): Tensor => {
    const list = listed(x, axes)
    const y = reduce(op, x, list, options)
    if (!isFloating(x.dtype)) return y
    record(op, [x], [y], [x, y], ([grad], [a, best]) => {
      const kept = keptShape(a.shape, list)
      const chosen = run1('eq', [a, best.viewAs(kept)], {})
      const count = run1('cast', [run1('sum', [chosen], { axes: list, keepdims: true })], { dtype: a.dtype })
      const share = run1('div', [inFormatOf(grad!, a).viewAs(kept), count], {})
      return [run1('where', [chosen, share, like(a, 0)], {})]
    })
    return y
  }
}

/** Largest element; NaN wins, equal ones share the gradient. */
export const max = extremum('max')
/** Smallest element; NaN wins, equal ones share the gradient. */
export const min = extremum('min')

/** Number (i64, row-major over the reduced axes) of the first largest element; NaN wins. */
export function argmax(x: Tensor, axes?: Axes | null, options: ReductionOptions = {}): Tensor {
  return reduce('argmax', x, listed(x, axes), options)
}
/** Number (i64, row-major over the reduced axes) of the first smallest element; NaN wins. */
export function argmin(x: Tensor, axes?: Axes | null, options: ReductionOptions = {}): Tensor {
  return reduce('argmin', x, listed(x, axes), options)
}

/** log(sum(exp(x))) without overflow. Floating formats. */
export function logSumExp(x: Tensor, axes?: Axes | null, options: ReductionOptions = {}): Tensor {
  const list = listed(x, axes)
  const y = reduce('log_sum_exp', x, list, options)
  record('log_sum_exp', [x], [y], [x, y], ([grad], [a, total]) => {
    const kept = keptShape(a.shape, list)
    const weights = run1('exp', [run1('sub', [a, total.viewAs(kept)], {})], {})
    return [run1('mul', [weights, inFormatOf(grad!, a).viewAs(kept)], {})]
  })
  return y
}

/** Mean squared distance from the mean, with n - correction in place of n (1: unbiased; 0: of the whole population). */
export function variance(x: Tensor, axes?: Axes | null, options: ReductionOptions & { correction?: number } = {}): Tensor {
  const list = listed(x, axes)
  const n = elements(x.shape) / elements(keptShape(x.shape, list))
  const squares = sum(square(sub(x, mean(x, list, { keepdims: true }))), list, options)
  return mulScalar(squares, 1 / Math.max(0, n - (options.correction ?? 1)))
}
