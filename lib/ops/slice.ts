// Boxes of tensors.
import { record } from '../autograd/tape'
import { run, run1, type Tensor } from '../tensor/tensor'

/**
 * x[start : stop : step] with one entry an axis; negative entries count from the end. Copies.
 * @throws ERR_SHAPE when the box does not fit
 */
export function slice(x: Tensor, start: readonly number[], stop: readonly number[], step?: readonly number[]): Tensor {
  const fromEnd = (list: readonly number[]) => list.map((at, axis) => (at < 0 ? at + (x.shape[axis] ?? 0) : at))
  const attrs = { start: fromEnd(start), stop: fromEnd(stop), step: step ? [...step] : x.shape.map(() => 1) }
  const out = run1('slice', [x], attrs)
  const shape = x.shape
  record('slice', [x], [out], [], ([grad]) => [run1('slice_backward', [grad], { ...attrs, shape })])
  return out
}

/** Writes `source` into `target` from `start` on, in place. Not differentiable: for caches and buffers. */
export function writeSlice(target: Tensor, source: Tensor, start: readonly number[]): void {
  run('write_slice', [target, source], { start })
}
