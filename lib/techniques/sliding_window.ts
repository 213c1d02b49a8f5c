// Sliding-window attention: each token sees only the nearest ones, in every layer. Source: Beltagy et al., arXiv 2004.05150.
import { windowKernel } from '../attention/kernels'
import { attentionLayers } from './layers'
import { defineTechnique } from './technique'

export const slidingWindow = defineTechnique({
  name: 'sliding_window',
  title: 'Sliding window: attention to the nearest tokens',
  category: 'attention',
  source: 'Beltagy et al., arXiv 2004.05150',
  settings: { window: { default: 256, min: 0, integer: true, help: 'tokens seen, the own one among them; 0: all' } },
  decides: ['attention_kernel'],
  neutral: { settings: { window: 0 } },
  make: ({ window }) => ({
    adapt(model) {
      if (window === 0) return
      for (const attention of attentionLayers(model, 'sliding_window')) attention.kernel = windowKernel(window)
    },
  }),
})
