import { defineCard } from '../card'

export default defineCard({
  title: 'Clipping of the gradient norm',
  claim: 'A limit of the global gradient norm keeps single batches from throwing a run off (Pascanu et al., arXiv 1211.5063).',
  budget: 'steps',
  baseline: { label: 'AdamW, no clipping', options: { clip: 0 }, lr: 8e-3 },
  technique: { label: 'norm at most 1', options: { clip: 1 }, lr: 8e-3 },
  when: 'As insurance for long runs; a short run on clean text shows little of it.',
})
