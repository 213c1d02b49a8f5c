import { defineCard } from '../card'

export default defineCard({
  title: 'Warm-up of the learning rate',
  claim: 'A short linear warm-up lets Adam use a higher rate later (Vaswani et al., arXiv 1706.03762).',
  budget: 'steps',
  baseline: { label: 'AdamW, no warm-up', options: { warmup: 0 }, lr: 8e-3 },
  technique: { label: 'warm-up of 25 steps', options: { warmup: 25 }, lr: 8e-3 },
  when: 'Always: it costs nothing.',
})
