// Elements in order along an axis, the largest of them, and running sums.
import { record } from '../autograd/tape'
import { run, run1, type Tensor } from '../tensor/tensor'
import { axisOf } from './axis'

export interface Ordered {
  values: Tensor
  /** i32: where each value was along the axis. */
  indices: Tensor
}

function ordered(op: string, x: Tensor, axis: number, [values, indices]: Tensor[]): Ordered {
  const shape = x.shape
  record(op, [x], [values], [indices], ([grad], [places]) => [run1('scatter_add', [null, places, grad], { axis, shape })])
  return { values, indices }
}

/**
 * The elements along an axis in order. Stable: equal ones keep theirs; NaN comes last either way. Any dtype.
 * @throws ERR_SHAPE
 */
export function sort(x: Tensor, axis = -1, descending = false): Ordered {
  const at = axisOf('sort', x, axis)
  return ordered('sort', x, at, run('sort', [x], { axis: at, descending }))
}

/** The indices that sort() gives. */
export function argsort(x: Tensor, axis = -1, descending = false): Tensor {
  const [values, indices] = run('sort', [x], { axis: axisOf('argsort', x, axis), descending })
  values.dispose()
  return indices
}

/**
 * The k largest elements along an axis, largest first; of equal ones the first, NaN last. Any dtype.
 * @throws ERR_SHAPE when the axis is shorter than k
 */
export function topK(x: Tensor, k: number, axis = -1): Ordered {
  const at = axisOf('topK', x, axis)
  return ordered('top_k', x, at, run('top_k', [x], { k, axis: at }))
}

/**
 * Running sums along an axis: out[i] = x[0] + ... + x[i]. Every dtype but bool; 16-bit and f32 sums are kept in f64.
 * @throws ERR_SHAPE, ERR_DTYPE
 */
export function cumsum(x: Tensor, axis = -1): Tensor {
  const at = axisOf('cumsum', x, axis)
  const out = run1('cumsum', [x], { axis: at, reverse: false })
  record('cumsum', [x], [out], [], ([grad]) => [run1('cumsum', [grad], { axis: at, reverse: true })])
  return out
}
