import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'RMSNorm instead of LayerNorm',
  claim: 'Leaving out the mean saves time at the same loss (Zhang and Sennrich, arXiv 1910.07467).',
  budget: 'flops',
  baseline: adamw,
  technique: { label: 'RMSNorm', options: { norm: 'rms_norm' }, lr: 8e-3 },
  when: 'In new models: it costs nothing in loss and is simpler.',
})
