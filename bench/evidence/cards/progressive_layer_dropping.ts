import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Progressive layer dropping',
  about: [{ kind: 'technique', name: 'progressive_layer_dropping' }],
  claim: 'Dropping more layers as training goes on saves a quarter of the FLOPs at the same loss (Zhang and He, arXiv 2010.13369).',
  budget: 'flops',
  options: { layers: 4, steps: 400 },
  baseline: { ...adamw, label: 'AdamW, 4 layers' },
  technique: { label: 'theta falls to 0.5', options: { technique: ['progressive_layer_dropping'] }, lr: 8e-3 },
  when: 'In deep models; with few layers each one that is left out is missed.',
})
