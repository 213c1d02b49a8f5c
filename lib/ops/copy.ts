// The same numbers in memory of their own.
import { record } from '../autograd/tape'
import { run1, type Tensor } from '../tensor/tensor'

/** A copy that later changes of `x` in place do not reach. The gradient flows through; x.detach() is for the other case. */
export function copy(x: Tensor): Tensor {
  const y = run1('copy', [x], {})
  record('copy', [x], [y], [], ([grad]) => [grad!])
  return y
}
