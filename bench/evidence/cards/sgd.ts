import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'SGD with momentum instead of AdamW',
  about: [{ kind: 'optimizer', name: 'sgd' }],
  claim: 'Plain SGD with momentum is the cheapest optimiser in state and arithmetic; transformers are said to need Adam (Zhang et al. 2020).',
  budget: 'flops',
  baseline: adamw,
  technique: { label: 'SGD, momentum 0.9', options: { optimizer: 'sgd:momentum=0.9' }, lr: 0.12 },
  when: 'For models without the badly scaled gradients of attention and embeddings, or where not even one more copy of the weights fits.',
})
