import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Training on grids of 8 bits',
  about: [{ kind: 'technique', name: 'qat' }],
  claim: 'A model trained on the grids that it is exported to loses almost nothing by 8 bits (Jacob et al., arXiv 1712.05877).',
  budget: 'steps',
  baseline: adamw,
  technique: { label: 'qat: 8 bits, weights and inputs', options: { technique: ['qat'] }, lr: 8e-3 },
  when: 'For models that will run with integers; at 8 bits rounding after training loses little more, at 4 it does. Training takes longer.',
})
