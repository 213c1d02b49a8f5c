import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Gradual magnitude pruning to a tenth of the weights',
  about: [{ kind: 'technique', name: 'magnitude_pruning' }],
  claim: 'Most weights can go during training at almost no cost (Zhu and Gupta, arXiv 1710.01878).',
  budget: 'steps',
  baseline: { ...adamw, label: 'AdamW, dense' },
  technique: { label: '90 % of the weights pruned', options: { technique: ['magnitude_pruning:every=10'] }, lr: 8e-3 },
  when: 'To publish a smaller model; the larger the model for its data, the more can go.',
})
