// The same numbers under another shape: reshape, flatten, squeeze, unsqueeze. Free: no copy is made.
import { LeanformerError } from '../native/errors'
import { record } from '../autograd/tape'
import type { Tensor } from '../tensor/tensor'
import { axisOf } from './axis'

/**
 * One size may be -1 and is then worked out.
 * @throws ERR_SHAPE when the numbers of elements differ
 */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  const known = shape.reduce((n, d) => (d === -1 ? n : n * d), 1)
  const full = shape.map((d) => (d === -1 ? x.size / known : d))
  const size = full.reduce((n, d) => n * d, 1)
  if (size !== x.size || full.some((d) => !Number.isInteger(d) || d < 0) || shape.filter((d) => d === -1).length > 1) {
    throw new LeanformerError(
      'ERR_SHAPE',
      `reshape: shape [${x.shape.join(', ')}] with ${x.size} elements cannot become [${shape.join(', ')}]`,
      'the sizes must multiply to the same number; one of them may be -1',
    )
  }
  const from = x.shape
  const out = x.viewAs(full)
  record('reshape', [x], [out], [], ([grad]) => [grad!.viewAs(from)])
  return out
}

/** x [..., n] as [rows, n]; a plain view, not recorded. */
export function rowsOf(x: Tensor): Tensor {
  const n = x.shape[x.rank - 1]
  return x.viewAs([n ? x.size / n : 0, n])
}

/** Axes `from` to `to` (both included; negative ones count from the end) become one. A tensor of no axes becomes [1]. */
export function flatten(x: Tensor, from = 0, to = -1): Tensor {
  if (x.rank === 0) return reshape(x, [1])
  const first = axisOf('flatten', x, from)
  const last = axisOf('flatten', x, to)
  if (first > last) {
    throw new LeanformerError('ERR_SHAPE', `flatten: axis ${from} comes after axis ${to} of shape [${x.shape.join(', ')}]`)
  }
  const size = x.shape.slice(first, last + 1).reduce((n, d) => n * d, 1)
  return reshape(x, [...x.shape.slice(0, first), size, ...x.shape.slice(last + 1)])
}

/**
 * Drops an axis of size 1, or all of them without `axis`.
 * @throws ERR_SHAPE when the axis has another size
 */
export function squeeze(x: Tensor, axis?: number): Tensor {
  if (axis === undefined) return reshape(x, x.shape.filter((d) => d !== 1))
  const at = axisOf('squeeze', x, axis)
  if (x.shape[at] !== 1) {
    throw new LeanformerError('ERR_SHAPE', `squeeze: axis ${axis} of shape [${x.shape.join(', ')}] has size ${x.shape[at]}, needs 1`)
  }
  return reshape(x, x.shape.filter((_, i) => i !== at))
}

/** A new axis of size 1 before `axis`; -1 puts it last. */
export function unsqueeze(x: Tensor, axis: number): Tensor {
  const at = axisOf('unsqueeze', x, axis, 1)
  return reshape(x, [...x.shape.slice(0, at), 1, ...x.shape.slice(at)])
}
