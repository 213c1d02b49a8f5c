import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Sophia-G instead of AdamW',
  about: [
    { kind: 'optimizer', name: 'sophia' },
    { kind: 'technique', name: 'sophia_curvature' },
  ],
  claim: 'Steps scaled by a cheap estimate of the curvature halve the steps of Adam (Liu et al., arXiv 2305.14342).',
  budget: 'flops',
  baseline: adamw,
  technique: { label: 'Sophia-G', options: { optimizer: 'sophia', technique: ['sophia_curvature'] }, lr: 1e-3 },
  when: 'Hardly ever before AdamW has been tuned; its second setting, rho, must be searched as well.',
})
