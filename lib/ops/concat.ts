// Tensors joined and cut along an axis: concat, stack, split, chunk; pad. Any dtype.
import { LeanformerError } from '../native/errors'
import { record } from '../autograd/tape'
import { run, run1, type Tensor } from '../tensor/tensor'
import { axisOf } from './axis'
import { unsqueeze } from './reshape'

/** x[..., from : to, ...] along one axis, not on the tape. */
function part(x: Tensor, axis: number, from: number, to: number): Tensor {
  const ones = x.shape.map(() => 1)
  const start = x.shape.map((_, i) => (i === axis ? from : 0))
  return run1('slice', [x], { start, stop: x.shape.map((size, i) => (i === axis ? to : size)), step: ones })
}

/** The places at which pieces of these sizes begin. */
const startsOf = (sizes: readonly number[]) => sizes.map((_, i) => sizes.slice(0, i).reduce((n, d) => n + d, 0))

/**
 * Tensors one after another along an axis; their other axes and dtypes are equal.
 * @throws ERR_SHAPE, ERR_DTYPE; ERR_ARGUMENT without tensors
 */
export function concat(xs: readonly Tensor[], axis = 0): Tensor {
  if (xs.length === 0) throw new LeanformerError('ERR_ARGUMENT', 'concat: no tensors given', 'give at least one')
  const out = run1('concat', xs, { axis })
  const at = axisOf('concat', out, axis)
  const sizes = xs.map((x) => x.shape[at])
  const starts = startsOf(sizes)
  record('concat', xs, [out], [], ([grad], _, context) =>
    sizes.map((size, i) => (context.needs(i) ? part(grad!, at, starts[i], starts[i] + size) : null)),
  )
  return out
}

/** Tensors of equal shape along a new axis. */
export function stack(xs: readonly Tensor[], axis = 0): Tensor {
  for (const x of xs) {
    if (x.shape.join() !== xs[0].shape.join()) {
      throw new LeanformerError('ERR_SHAPE', `stack: shapes [${xs[0].shape.join(', ')}] and [${x.shape.join(', ')}] differ`, 'stack needs equal shapes; concat joins along an existing axis')
    }
  }
  return concat(xs.map((x) => unsqueeze(x, axis)), axis)
}

/**
 * Cuts an axis into pieces of the given sizes, or of one size each (the last may be smaller).
 * @throws ERR_SHAPE unless the sizes add up to the axis
 */
export function split(x: Tensor, sizes: number | readonly number[], axis = 0): Tensor[] {
  const at = axisOf('split', x, axis)
  const whole = x.shape[at]
  const list = typeof sizes === 'number' ? equalSizes(whole, sizes) : [...sizes]
  if (list.some((size) => !Number.isInteger(size) || size < 0) || list.reduce((n, d) => n + d, 0) !== whole) {
    throw new LeanformerError(
      'ERR_SHAPE',
      `split: sizes ${JSON.stringify(sizes)} do not suit axis ${axis} of shape [${x.shape.join(', ')}]`,
      `whole numbers that add up to ${whole}, or one positive whole number`,
    )
  }
  const starts = startsOf(list)
  const shapes = list.map((size) => x.shape.map((d, axis) => (axis === at ? size : d)))
  const parts = list.map((size, i) => part(x, at, starts[i], starts[i] + size))
  record('split', [x], parts, [], (grads) => {
    // Parts that nothing flowed to count as zeros.
    const known = grads.find((grad) => grad !== null)!
    const all = grads.map(
      (grad, i) => grad ?? run1('fill', [], { shape: shapes[i], value: 0, dtype: known.dtype }, known.device),
    )
    return [run1('concat', all, { axis: at })]
  })
  return parts
}

function equalSizes(whole: number, size: number): number[] {
  if (!(size >= 1)) return [NaN]
  return whole === 0 ? [0] : Array.from({ length: Math.ceil(whole / size) }, (_, i) => Math.min(size, whole - i * size))
}

/** Cuts an axis into `count` pieces of equal size; the last ones may be smaller, or missing when there is nothing left. */
export function chunk(x: Tensor, count: number, axis = 0): Tensor[] {
  if (!Number.isInteger(count) || count < 1) {
    throw new LeanformerError('ERR_ARGUMENT', `chunk: count is ${count}`, 'a whole number of at least 1')
  }
  return split(x, Math.max(1, Math.ceil(x.shape[axisOf('chunk', x, axis)] / count)), axis)
}

/**
 * Puts `value` round a tensor: widths[i] = [before, after] elements along axis i, one pair an axis.
 * @throws ERR_SHAPE when the pairs do not suit the axes
 */
export function pad(x: Tensor, widths: readonly (readonly [number, number])[], value = 0): Tensor {
  if (widths.length !== x.rank || widths.some((pair) => pair.length !== 2 || pair.some((n) => !Number.isInteger(n) || n < 0))) {
    throw new LeanformerError(
      'ERR_SHAPE',
      `pad: widths ${JSON.stringify(widths)} do not suit shape [${x.shape.join(', ')}]`,
      'one pair [before, after] of whole numbers an axis',
    )
  }
  const start = widths.map(([before]) => before)
  const stop = x.shape.map((size, i) => start[i] + size)
  const step = x.shape.map(() => 1)
  const out = run1('fill', [], { shape: stop.map((at, i) => at + widths[i][1]), value, dtype: x.dtype }, x.device)
  run('write_slice', [out, x], { start })
  record('pad', [x], [out], [], ([grad]) => [run1('slice', [grad], { start, stop, step })])
  return out
}
