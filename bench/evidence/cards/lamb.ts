import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'LAMB in a large batch',
  about: [{ kind: 'optimizer', name: 'lamb' }],
  claim: 'Trust ratios by layer keep Adam stable in very large batches (You et al., arXiv 1904.00962).',
  budget: 'flops',
  options: { batch: 64, steps: 100, warmup: 10 },
  baseline: { ...adamw, label: 'AdamW, batch 64' },
  technique: { label: 'LAMB, batch 64', options: { optimizer: 'lamb:beta2=0.95' }, lr: 1.6e-2 },
  when: 'In batches far beyond the critical size, where AdamW has become unstable.',
})
