// Linear attention: the softmax kernel replaced by phi(q) . phi(k) with phi(x) = elu(x) + 1. Another model than softmax attention,
// not an approximation of it; linear in the length. Source: Katharopoulos et al., arXiv 2006.16236.
import { refuse, type AttentionKernel } from '../attention/kernels'
import { featureAttention } from '../ops/feature_attention'
import { attentionLayers } from './layers'
import { defineTechnique } from './technique'

export const linearKernel: AttentionKernel = (q, k, v, options) => {
  refuse('linear_attention', options, ['window', 'slopes', 'segments', 'keyMask', 'dropout'])
  return featureAttention(q, k, v, { causal: options.causal, map: 'elu' })
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
