import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'GPT-2 weights instead of Xavier',
  about: [{ kind: 'initializer', name: 'gpt2' }],
  claim: 'N(0, 0.02) with smaller outputs of branches is the start of most language models (Radford et al. 2019).',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, Xavier' },
  technique: { label: 'GPT-2 weights', options: { init: 'gpt2' }, lr: 8e-3 },
  when: 'At the widths that it was chosen for, 768 and more.',
})
