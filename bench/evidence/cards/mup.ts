import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Maximal update parametrisation',
  about: [{ kind: 'initializer', name: 'mup' }],
  claim: 'Rates found at one width hold at every other (Yang et al., arXiv 2203.03466); at the width where they were found nothing should be lost.',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, Xavier' },
  technique: { label: 'muP', options: { init: 'mup' }, lr: 8e-3 },
  when: 'When hyperparameters are searched on a small model for a large one.',
})
