// Linear attention: the softmax kernel replaced by phi(q) . phi(k) with phi(x) = elu(x) + 1. Another model than softmax attention,
// not an approximation of it; linear in the length. Source: Katharopoulos et al., arXiv 2006.16236.
import { headsFirst, refuse, tokensFirst, type AttentionKernel } from '../attention/kernels'
import { featureAttention } from '../attention/prefix'
import { add, exp, neg, relu } from '../ops/elementwise'
import type { Tensor } from '../tensor/tensor'
import { attentionLayers } from './layers'
import { defineTechnique } from './technique'

/** elu(x) + 1 = max(x, 0) + exp(min(x, 0)). */
export function eluFeatures(x: Tensor): Tensor {
  return add(relu(x), exp(neg(relu(neg(x)))))
}

export const linearKernel: AttentionKernel = (q, k, v, options) => {
  refuse('linear_attention', options, ['window', 'slopes', 'segments', 'keyMask', 'dropout'])
  const features = (x: Tensor) => eluFeatures(headsFirst(x, options.heads))
  return tokensFirst(featureAttention(features(q), features(k), headsFirst(v, options.heads), options.causal ?? false))
}

export const linearAttention = defineTechnique({
  name: 'linear_attention',
  title: 'Linear attention: elu(x) + 1 as features',
  category: 'attention',
  source: 'Katharopoulos et al., arXiv 2006.16236',
  settings: {},
  decides: ['attention_kernel'],
  neutral: 'none: it is another kind of attention',
  make: () => ({
    adapt(model) {
      for (const attention of attentionLayers(model, 'linear_attention')) attention.kernel = linearKernel
    },
  }),
})
