import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'ALiBi instead of a learned table',
  claim: 'A penalty that grows with distance replaces position embeddings and reads longer contexts than it was trained on (Press et al., arXiv 2108.12409).',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, learned positions', options: { positions: 'learned' } },
  technique: { label: 'ALiBi', options: { positions: 'alibi' }, lr: 8e-3 },
  when: 'For short runs, and where the model must read more than it was trained on.',
})
