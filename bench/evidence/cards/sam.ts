import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Sharpness-aware minimisation',
  about: [{ kind: 'technique', name: 'sam' }],
  claim: 'A second gradient at the worst nearby point finds flatter minima, which generalise better (Foret et al., arXiv 2010.01412).',
  budget: 'flops',
  baseline: adamw,
  technique: { label: 'SAM, rho 0.05', options: { technique: ['sam'] }, lr: 8e-3 },
  when: 'In training over many epochs on little data; a run that reads its text once pays twice for nothing.',
})
