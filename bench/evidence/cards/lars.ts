import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'LARS in a large batch',
  about: [{ kind: 'optimizer', name: 'lars' }],
  claim: 'Layer-wise rates make momentum SGD usable in very large batches (You et al., arXiv 1708.03888).',
  budget: 'flops',
  options: { batch: 64, steps: 100, warmup: 10 },
  baseline: { ...adamw, label: 'AdamW, batch 64' },
  technique: { label: 'LARS, batch 64', options: { optimizer: 'lars' }, lr: 8 },
  when: 'For convolutional networks in large batches; transformers want LAMB or AdamW.',
})
