import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Adaptive sharpness-aware minimisation',
  about: [{ kind: 'technique', name: 'asam' }],
  claim: 'SAM with a neighbourhood that does not depend on the scale of the weights (Kwon et al., arXiv 2102.11600).',
  budget: 'flops',
  baseline: adamw,
  technique: { label: 'ASAM, rho 0.5', options: { technique: ['asam'] }, lr: 8e-3 },
  when: 'As SAM.',
})
