import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Four times the batch, a quarter of the steps',
  claim: 'Larger batches need fewer steps, not fewer examples: beyond the critical batch size the same tokens teach less (McCandlish et al., arXiv 1812.06162).',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, batch 8' },
  technique: { label: 'batch 32', options: { batch: 32, warmup: 6 }, lr: 1.6e-2 },
  when: 'Where more devices than batches of that size would idle; never to save computation.',
})
