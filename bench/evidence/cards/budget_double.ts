import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Twice the budget',
  claim: 'A point of reference for the frontier: what the plain run gains with twice the steps.',
  budget: 'steps',
  baseline: adamw,
  technique: { label: 'twice the steps', options: { steps: 1000 }, lr: 8e-3 },
  when: 'Not a technique: any gain should be compared with simply training longer.',
})
