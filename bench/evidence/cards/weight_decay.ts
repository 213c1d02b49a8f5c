import { defineCard } from '../card'

export default defineCard({
  title: 'Decoupled weight decay',
  claim: 'Decay of the matrices by 0.1 of the learning rate improves what the model generalises to (Loshchilov and Hutter, arXiv 1711.05101).',
  budget: 'steps',
  baseline: { label: 'Adam, no decay', options: { weightDecay: 0 }, lr: 8e-3 },
  technique: { label: 'decay 0.1', options: { weightDecay: 0.1 }, lr: 8e-3 },
  when: 'In most runs: it costs nothing. In one that sees its text less than once the gain is small.',
})
