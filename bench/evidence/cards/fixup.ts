import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Fixup instead of normalisation',
  about: [{ kind: 'initializer', name: 'fixup' }],
  claim: 'Scaled first weights and scalars replace normalisation layers (Zhang, Dauphin and Ma, arXiv 1901.09321).',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, Xavier' },
  technique: { label: 'Fixup', options: { init: 'fixup' }, lr: 8e-3 },
  when: 'Where normalisation is what costs time or cannot be had.',
})
