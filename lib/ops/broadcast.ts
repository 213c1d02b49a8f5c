// Broadcasting and its gradient: what was repeated forwards is summed backwards.
import { record } from '../autograd/tape'
import { isFloating, type DType } from '../native/dtype'
import { LeanformerError } from '../native/errors'
import { run1, type Tensor } from '../tensor/tensor'

/** @internal The gradient in the format that kernels with `saved` need. */
export function inFormatOf(grad: Tensor, saved: Tensor): Tensor {
  return grad.dtype === saved.dtype ? grad : run1('cast', [grad], { dtype: saved.dtype })
}

// Beyond 2^53 a number of JavaScript may not be the whole one that was meant.
const ranges: Partial<Record<DType, readonly [number, number]>> = {
  i8: [-128, 127],
  u8: [0, 255],
  i32: [-(2 ** 31), 2 ** 31 - 1],
  i64: [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
  bool: [0, 1],
}

/** @internal Throws unless `dtype` holds `value`: integer formats would cut it without a word. */
export function checkHolds(op: string, dtype: DType, value: number): void {
  if (isFloating(dtype)) return
  const [low, high] = ranges[dtype]!
  if (Number.isInteger(value) && value >= low && value <= high) return
  const message = `${op}: ${value} is not a number that ${dtype} holds`
  throw new LeanformerError('ERR_ARGUMENT', message, `whole numbers from ${low} to ${high}, or cast to f32 first`)
}

/** @internal A number as a tensor of no axes, in the format and on the device of `x`; `op` is who asks for it. */
export function like(x: Tensor, value: number, op = 'fill'): Tensor {
  checkHolds(op, x.dtype, value)
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
