// The gate of feed-forward layers.
import { record, remakeFrom } from '../autograd/tape'
import { run, run1, type Tensor } from '../tensor/tensor'
import { inFormatOf } from './broadcast'

/**
 * silu(a) b, with a and b as two tensors of one shape, or as the first and second half of the last axis of one tensor
 * [..., 2F] -> [..., F]. Shazeer, arXiv 2002.05202.
 */
export function swiglu(a: Tensor, b?: Tensor | null): Tensor {
  const y = run1('swiglu', [a, b], {})
  remakeFrom(y, [a, b], (inputs) => run1('swiglu', inputs, {}))
  record('swiglu', [a, b], [y], [a, b], ([grad], [x, gate]) =>
    run('swiglu_backward', [inFormatOf(grad!, x), x, gate], {}),
  )
  return y
}
