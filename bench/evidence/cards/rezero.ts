import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'ReZero instead of normalisation',
  about: [{ kind: 'initializer', name: 'rezero' }],
  claim: 'A gate at 0 on every branch starts the network as the identity and speeds up the first epochs (Bachlechner et al., arXiv 2003.04887).',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, Xavier' },
  technique: { label: 'ReZero', options: { init: 'rezero' }, lr: 8e-3 },
  when: 'In deep stacks that do not start without it; two layers are not deep.',
})
