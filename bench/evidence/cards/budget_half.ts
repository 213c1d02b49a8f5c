import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Half the budget',
  claim: 'A point of reference for the frontier: what the plain run loses with half of the steps.',
  budget: 'steps',
  improves: 'flops',
  baseline: adamw,
  technique: { label: 'half the steps', options: { steps: 250 }, lr: 8e-3 },
  when: 'Not a technique: any saving should be compared with simply stopping earlier.',
})
