// Axes as users write them: negative ones count from the end.
import { LeanformerError } from '../native/errors'
import type { Tensor } from '../tensor/tensor'

/** @internal 0 .. rank - 1 (+ `more`, for axes that do not exist yet). */
export function axisOf(op: string, x: Tensor, axis: number, more = 0): number {
  const rank = x.rank + more
  const at = axis < 0 ? axis + rank : axis
  if (Number.isInteger(axis) && at >= 0 && at < rank) return at
  throw new LeanformerError(
    'ERR_SHAPE',
    `${op}: axis ${axis} is out of range for shape [${x.shape.join(', ')}]`,
    rank === 0 ? 'a tensor of no axes has none to choose' : `it goes from ${-rank} to ${rank - 1}`,
  )
}
