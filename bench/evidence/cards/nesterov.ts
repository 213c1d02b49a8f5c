import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Nesterov momentum instead of AdamW',
  about: [{ kind: 'optimizer', name: 'nesterov' }],
  claim: 'Momentum with a look ahead needs half the state of Adam and is enough where gradients are well scaled (Sutskever et al. 2013).',
  budget: 'flops',
  baseline: adamw,
  technique: { label: 'Nesterov, momentum 0.9', options: { optimizer: 'nesterov' }, lr: 0.12 },
  when: 'Where the second moment does not fit in memory and a transformer is not what is trained; on this one Adam is far ahead.',
})
