import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'LayerDrop',
  about: [{ kind: 'technique', name: 'layer_drop' }],
  claim: 'Leaving layers out at random regularises and makes steps cheaper (Fan et al., arXiv 1909.11556).',
  budget: 'flops',
  options: { layers: 4, steps: 400 },
  baseline: { ...adamw, label: 'AdamW, 4 layers' },
  technique: { label: 'LayerDrop, p 0.2', options: { technique: ['layer_drop'] }, lr: 8e-3 },
  when: 'Where the trained model will be cut to fewer layers.',
})
