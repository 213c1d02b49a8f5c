import { defineCard } from '../card'

export default defineCard({
  title: 'AdamW instead of SGD',
  about: [{ kind: 'optimizer', name: 'adamw' }],
  claim: 'Adaptive steps with decoupled weight decay train transformers where SGD stalls (Loshchilov and Hutter, arXiv 1711.05101).',
  budget: 'flops',
  baseline: { label: 'SGD, momentum 0.9', options: { optimizer: 'sgd:momentum=0.9' }, lr: 0.12 },
  technique: { label: 'AdamW', options: {}, lr: 8e-3 },
  when: 'As the default: every other optimiser here is measured against it.',
})
