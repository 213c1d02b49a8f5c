// Layer normalisation. Source: Ba et al., arXiv 1607.06450.
import { record, remakeFrom } from '../autograd/tape'
import { run, type Tensor } from '../tensor/tensor'

/**
 * (x - mean) / sqrt(variance + eps) * weight + bias over the last axis. x [..., width]; weight and bias [width], f32 beside
 * 16-bit x if wanted. f32, f16, bf16 (statistics in f32) and f64.
 * @throws ERR_SHAPE, ERR_DTYPE
 */
export function layerNorm(x: Tensor, weight?: Tensor | null, bias?: Tensor | null, eps = 1e-5): Tensor {
  const [out, mean, rstd] = run('layer_norm', [x, weight, bias], { eps })
  remakeFrom(out, [x, weight, bias], (inputs) => run('layer_norm', inputs, { eps })[0])
  record('layer_norm', [x, weight, bias], [out], [x, weight, mean, rstd], ([grad], [input, w, m, r], context) => {
    const partial = context.takePartial(0)
    const [dx, dw, db] = run('layer_norm_backward', [grad, input, w, m, r, partial], {})
    return [dx, dw, db]
  })
  return out
}
