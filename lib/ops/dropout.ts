// Dropout. Source: Srivastava et al., JMLR 2014.
import { record } from '../autograd/tape'
import { defaultGenerator, type Generator } from '../tensor/random'
import { run1, type Tensor } from '../tensor/tensor'

/**
 * x with each element set to 0 with probability `p` and the others scaled by 1 / (1 - p). Draws one block of `generator`;
 * the backward pass repeats it, so nothing is saved. p = 0 gives x itself.
 * @throws ERR_ARGUMENT when p is not within 0 <= p < 1
 */
export function dropout(x: Tensor, p: number, { generator = defaultGenerator }: { generator?: Generator } = {}): Tensor {
  if (p === 0) return x
  const attrs = { p, ...generator.next() }
  const out = run1('dropout', [x], attrs)
  record('dropout', [x], [out], [], ([grad]) => [run1('dropout', [grad], attrs)])
  return out
}
