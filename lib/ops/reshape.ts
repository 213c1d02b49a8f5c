// The same numbers under another shape. Free: no copy is made.
import { LeanformerError } from '../native/errors'
import { record } from '../autograd/tape'
import type { Tensor } from '../tensor/tensor'

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
