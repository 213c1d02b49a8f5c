// Broadcasting and its gradient: what was repeated forwards is summed backwards.
import { record } from '../autograd/tape'
import { run1, type Tensor } from '../tensor/tensor'

/** @internal The gradient in the format that kernels with `saved` need. */
export function inFormatOf(grad: Tensor, saved: Tensor): Tensor {
  return grad.dtype === saved.dtype ? grad : run1('cast', [grad], { dtype: saved.dtype })
}

/** @internal A number as a tensor of no axes, in the format and on the device of `x`. */
export function like(x: Tensor, value: number): Tensor {
  return run1('fill', [], { shape: [], value, dtype: x.dtype }, x.device)
}

/** @internal Sums over the axes along which `shape` was broadcast to the shape of `grad`. */
export function sumTo(grad: Tensor, shape: readonly number[]): Tensor {
  const missing = grad.rank - shape.length
  const axes: number[] = []
  grad.shape.forEach((size, axis) => {
    if (axis < missing || (shape[axis - missing] === 1 && size !== 1)) axes.push(axis)
  })
  if (axes.length === 0) return grad
  const sum = axes.every((axis) => grad.shape[axis] === 1) ? grad : run1('sum', [grad], { axes, keepdims: true })
  return sum.viewAs(shape)
}

/** x repeated along axes of size 1 and new leading axes, until it has `shape`. */
export function broadcastTo(x: Tensor, shape: readonly number[]): Tensor {
  const y = run1('broadcast_to', [x], { shape: [...shape] })
  const from = x.shape
  record('broadcast_to', [x], [y], [], ([grad]) => [sumTo(grad!, from)])
  return y
}

/** broadcastTo() where -1 keeps the size of an axis. */
export function expand(x: Tensor, shape: readonly number[]): Tensor {
  const missing = shape.length - x.rank
  return broadcastTo(x, shape.map((size, axis) => (size === -1 && axis >= missing ? x.shape[axis - missing] : size)))
}
