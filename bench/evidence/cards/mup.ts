import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Maximal update parametrisation',
  about: [{ kind: 'initializer', name: 'mup' }],
  claim: 'Rates found at one width hold at every other (Yang et al., arXiv 2203.03466); at the width where they were found nothing should be lost.',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, GPT-2 weights', options: { init: 'gpt2' } },
  technique: { label: 'muP', options: { init: 'mup:base_width=32,base_head_width=16' }, lr: 8e-3 },
  when: 'When hyperparameters are searched on a small model for a large one.',
})
