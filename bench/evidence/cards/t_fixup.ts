import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'T-Fixup instead of normalisation',
  about: [{ kind: 'initializer', name: 't_fixup' }],
  claim: 'With the right scale of the first weights transformers train without normalisation and warm-up (Huang et al., ICML 2020).',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, Xavier' },
  technique: { label: 'T-Fixup', options: { init: 't_fixup' }, lr: 8e-3 },
  when: 'Where normalisation is what costs time, in stacks deep enough for its scale to matter.',
})
