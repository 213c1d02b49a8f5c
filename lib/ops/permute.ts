// The axes of a tensor in another order, and backwards. Tensors are dense, so these copy, unless only axes of size 1 move.
import { LeanformerError } from '../native/errors'
import { record } from '../autograd/tape'
import { run1, type Tensor } from '../tensor/tensor'
import { axisOf } from './axis'

/**
 * The result's axis i is x's axis axes[i]; negative axes count from the end. Any dtype.
 * @throws ERR_SHAPE unless every axis comes exactly once
 */
export function permute(x: Tensor, axes: readonly number[]): Tensor {
  const order = axes.map((axis) => axisOf('permute', x, axis))
  if (order.length !== x.rank || new Set(order).size !== x.rank) {
    throw new LeanformerError(
      'ERR_SHAPE',
      `permute: axes [${axes.join(', ')}] do not suit shape [${x.shape.join(', ')}]`,
      'give each axis exactly once',
    )
  }
  const out = reorder(x, order)
  const back = order.map((_, axis) => order.indexOf(axis))
  record('permute', [x], [out], [], ([grad]) => [reorder(grad!, back)])
  return out
}

function reorder(x: Tensor, order: number[]): Tensor {
  const moved = order.filter((axis) => x.shape[axis] !== 1)
  const inOrder = moved.every((axis, i) => i === 0 || axis > moved[i - 1])
  return inOrder ? x.viewAs(order.map((axis) => x.shape[axis])) : run1('permute', [x], { axes: order })
}

/** Swaps two axes, the last two unless told. Any dtype. */
export function transpose(x: Tensor, a = -2, b = -1): Tensor {
  const order = x.shape.map((_, axis) => axis)
  const first = axisOf('transpose', x, a)
  const second = axisOf('transpose', x, b)
  order[first] = second
  order[second] = first
  return permute(x, order)
}

/** The given axes backwards. Any dtype. */
export function flip(x: Tensor, axes: readonly number[]): Tensor {
  const list = axes.map((axis) => axisOf('flip', x, axis))
  const out = run1('flip', [x], { axes: list })
  record('flip', [x], [out], [], ([grad]) => [run1('flip', [grad], { axes: list })])
  return out
}
