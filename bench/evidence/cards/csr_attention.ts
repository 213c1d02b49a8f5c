import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Attention over listed pairs',
  about: [{ kind: 'technique', name: 'csr_attention' }],
  claim: 'Sparse patterns need not come in blocks: a window with gaps reaches twice as far for the same pairs (Beltagy et al., arXiv 2004.05150).',
  budget: 'steps',
  improves: 'flops',
  options: { context: 128, batch: 2 },
  baseline: { ...adamw, label: 'Softmax over 128 tokens' },
  technique: { label: 'Longformer by pairs: 32 before, every second of 64 in one head, 1 for all', options: { technique: ['csr_attention:window=32,by=list'] }, lr: 8e-3 },
  when: 'For patterns with gaps, and where a few pairs in a hundred are seen; otherwise blocks are faster, and `by=auto` takes them.',
})
