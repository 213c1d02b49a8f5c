import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'AdamW with moments in 8 bits',
  about: [{ kind: 'optimizer', name: 'adamw_8bit' }],
  claim: 'Moments in 8 bits with a scale a block save three quarters of the optimiser state at the same loss (Dettmers et al., arXiv 2110.02861).',
  budget: 'steps',
  improves: 'peakBytes',
  baseline: adamw,
  technique: { label: '8-bit moments', options: { optimizer: 'adamw_8bit' }, lr: 8e-3 },
  when: 'Whenever optimiser state takes a large share of the memory; small tensors keep f32 moments, so small models save less.',
})
