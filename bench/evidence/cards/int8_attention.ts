import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Attention with int8 queries and keys',
  about: [{ kind: 'technique', name: 'int8_attention' }],
  claim: 'Scores from 8 bits lose nothing (SageAttention, arXiv 2410.02367).',
  budget: 'steps',
  improves: 'loss',
  options: { context: 128, batch: 2 },
  baseline: { ...adamw, label: 'Softmax over 128 tokens' },
  technique: { label: 'int8 queries and keys', options: { technique: ['int8_attention'] }, lr: 8e-3 },
  when: 'Where the device has an int8 product; here it is emulated, and slower.',
})
