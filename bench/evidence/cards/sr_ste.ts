import { adamw, defineCard } from '../card'

export default defineCard({
  title: '2:4 sparsity from scratch',
  about: [{ kind: 'technique', name: 'sr_ste' }],
  claim: 'Half of the weights in the pattern of sparse tensor cores, trained from scratch at the loss of dense ones (Zhou et al., arXiv 2102.04010).',
  budget: 'steps',
  baseline: { ...adamw, label: 'AdamW, dense' },
  technique: { label: 'SR-STE, 2 of 4', options: { technique: ['sr_ste'] }, lr: 8e-3 },
  when: 'For inference on chips with sparse tensor cores; training itself computes densely.',
})
