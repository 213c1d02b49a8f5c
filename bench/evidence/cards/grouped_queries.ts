import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'One head of keys and values for all queries',
  claim: 'Sharing keys and values among heads shrinks the cache of generation by the number of heads, at a small loss (Shazeer, arXiv 1911.02150).',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, 2 key-value heads' },
  technique: { label: '1 key-value head', options: { kvHeads: 1 }, lr: 8e-3 },
  when: 'Where generation is bound by the key-value cache.',
})
