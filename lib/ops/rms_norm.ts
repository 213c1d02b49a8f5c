// Root-mean-square normalisation. Source: Zhang and Sennrich, arXiv 1910.07467.
import { record, remakeFrom } from '../autograd/tape'
import { run, type Tensor } from '../tensor/tensor'

/**
 * x / sqrt(mean(x^2) + eps) * weight over the last axis. x [..., width], weight [width]. Formats as for layerNorm().
 * @throws ERR_SHAPE, ERR_DTYPE
 */
export function rmsNorm(x: Tensor, weight?: Tensor | null, eps = 1e-5): Tensor {
  const [out, rstd] = run('rms_norm', [x, weight], { eps })
  remakeFrom(out, [x, weight], (inputs) => run('rms_norm', inputs, { eps })[0])
  record('rms_norm', [x, weight], [out], [x, weight, rstd], ([grad], [input, w, r], context) => {
    const [dx, dw] = run('rms_norm_backward', [grad, input, w, r, context.takePartial(0)], {})
    return [dx, dw]
  })
  return out
}
