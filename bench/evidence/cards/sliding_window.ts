import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Attention to the nearest 32 tokens',
  about: [{ kind: 'technique', name: 'sliding_window' }],
  claim: 'Most of what attention needs is near: a window costs less at the same loss (Beltagy et al., arXiv 2004.05150).',
  budget: 'steps',
  improves: 'flops',
  options: { context: 128, batch: 2 },
  baseline: { ...adamw, label: 'Softmax over 128 tokens' },
  technique: { label: 'Window of 32', options: { technique: ['sliding_window:window=32'] }, lr: 8e-3 },
  when: 'In long contexts, where scores are a large share of the work; with every layer windowed, the reach is layers times window.',
})
