// Elements and slices picked by index along an axis, and their counterparts that add by index. Indices are i32 or i64
// tensors; one outside the axis fails the device's stream with ERR_KERNEL, naming the index and its position.
import type { DType } from '../native/dtype'
import { record } from '../autograd/tape'
import { run1, type Tensor } from '../tensor/tensor'
import { axisOf } from './axis'

/**
 * out[i, j, k] = x[i, index[i, j, k], k] for axis 1 of 3, and so on (as torch.gather). The result has index's shape; index
 * has as many axes as x and is no larger on any other axis. Any dtype.
 * @throws ERR_SHAPE, ERR_DTYPE
 */
export function gather(x: Tensor, axis: number, index: Tensor): Tensor {
  const at = axisOf('gather', x, axis)
  const shape = x.shape
  const out = run1('gather', [x, index], { axis: at })
  record('gather', [x], [out], [index], ([grad], [places]) => [run1('scatter_add', [null, places, grad], { axis: at, shape })])
  return out
}

/**
 * x with source[i, j, k] added at [i, index[i, j, k], k] for axis 1 of 3, and so on; index and source have one shape. Always
 * adds in the same order. f32, f16, bf16 (sums in f32) and f64.
 * @throws ERR_SHAPE, ERR_DTYPE
 */
export function scatterAdd(x: Tensor, axis: number, index: Tensor, source: Tensor): Tensor {
  const at = axisOf('scatterAdd', x, axis)
  const out = run1('scatter_add', [x, index, source], { axis: at, shape: x.shape })
  record('scatter_add', [x, source], [out], [index], ([grad], [places], context) => [
    grad,
    context.needs(1) ? run1('gather', [grad, places], { axis: at }) : null,
  ])
  return out
}

/**
 * Slices of x along an axis: index [n] gives a result with n in that place. Any dtype.
 * @throws ERR_SHAPE, ERR_DTYPE
 */
export function indexSelect(x: Tensor, axis: number, index: Tensor): Tensor {
  const at = axisOf('indexSelect', x, axis)
  const shape = x.shape
  const out = run1('index_select', [x, index], { axis: at })
  record('index_select', [x], [out], [index], ([grad], [places]) => [run1('index_add', [null, places, grad], { axis: at, shape })])
  return out
}

/**
 * x with slice i of `source` added to slice index[i] along an axis, always in the same order. f32, f16, bf16 (sums in f32)
 * and f64.
 * @throws ERR_SHAPE, ERR_DTYPE
 */
export function indexAdd(x: Tensor, axis: number, index: Tensor, source: Tensor): Tensor {
  const at = axisOf('indexAdd', x, axis)
  const out = run1('index_add', [x, index, source], { axis: at, shape: x.shape })
  record('index_add', [x, source], [out], [index], ([grad], [places], context) => [
    grad,
    context.needs(1) ? run1('index_select', [grad, places], { axis: at }) : null,
  ])
  return out
}

/** index [...] -> [..., classes]: 1 at the index, 0 elsewhere. */
export function oneHot(index: Tensor, classes: number, dtype: DType = 'f32'): Tensor {
  return run1('one_hot', [index], { classes, dtype })
}
