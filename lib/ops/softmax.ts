// Softmax and its logarithm over one axis.
import { record } from '../autograd/tape'
import { run1, type Tensor } from '../tensor/tensor'

/**
 * exp(x) / sum exp(x) along `axis` (default the last). A slice of -inf alone gives NaN. f32, f16, bf16 (computed in f32), f64.
 * @throws ERR_SHAPE, ERR_DTYPE
 */
export function softmax(x: Tensor, axis = -1): Tensor {
  const out = run1('softmax', [x], { axis })
  record('softmax', [x], [out], [out], ([grad], [y]) => [run1('softmax_backward', [grad, y], { axis })])
  return out
}

/** x - log sum exp(x) along `axis` (default the last). Formats and errors as for softmax(). */
export function logSoftmax(x: Tensor, axis = -1): Tensor {
  const out = run1('log_softmax', [x], { axis })
  record('log_softmax', [x], [out], [out], ([grad], [y]) => [run1('log_softmax_backward', [grad, y], { axis })])
  return out
}
