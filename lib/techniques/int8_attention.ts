// Attention with queries and keys rounded to int8, one scale a token and head: x = s round(x / s), s = max |x| / 127. Scores are
// those of an int8 product; softmax and values stay as they are. Gradients pass the rounding straight through. Where the
// device has no such product it is emulated, which costs time and saves none. Source: SageAttention, arXiv 2410.02367.
import type { AttentionKernel } from '../attention/kernels'
import { noGrad } from '../autograd/tape'
import { attention } from '../ops/attention'
import { abs, add, addScalar, div, floor, maximum, mul, mulScalar, sub } from '../ops/elementwise'
import { full } from '../ops/creation'
import { max } from '../ops/reductions'
import type { Tensor } from '../tensor/tensor'
import { attentionLayers } from './layers'
import { defineTechnique } from './technique'

/** x rounded to 255 steps between -max |x| and max |x| along the last axis; the gradient is that of x. */
export function roundToInt8(x: Tensor): Tensor {
  const change = noGrad(() => {
    const largest = max(abs(x), [-1], { keepdims: true })
    // Rows of zeros stay zeros.
    const step = maximum(mulScalar(largest, 1 / 127), full([], 1e-30, { device: x.device, dtype: x.dtype }))
    return sub(mul(floor(addScalar(div(x, step), 0.5)), step), x).detach()
  })
  return add(x, change)
}

export const int8Kernel: AttentionKernel = (q, k, v, options) => attention(roundToInt8(q), roundToInt8(k), v, options)

export const int8Attention = defineTechnique({
  name: 'int8_attention',
  title: 'Attention with int8 queries and keys',
  category: 'attention',
  source: 'Zhang et al., SageAttention, arXiv 2410.02367',
  settings: {},
  decides: ['attention_kernel'],
  neutral: 'none: rounding to 8 bits has no strength',
  make: () => ({
    adapt(model) {
      for (const layer of attentionLayers(model, 'int8_attention')) layer.kernel = int8Kernel
    },
  }),
})
