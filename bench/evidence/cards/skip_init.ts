import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'SkipInit instead of normalisation',
  about: [{ kind: 'initializer', name: 'skip_init' }],
  claim: 'One scalar at 0 on each branch does what normalisation does for depth (De and Smith, arXiv 2002.10444).',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, Xavier' },
  technique: { label: 'SkipInit', options: { init: 'skip_init' }, lr: 8e-3 },
  when: 'As ReZero.',
})
