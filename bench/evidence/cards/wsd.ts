import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'A constant rate with a short decay instead of a cosine',
  claim: 'Warm-up, stable, decay reaches the loss of a cosine, and the stable part can be continued (Hu et al., arXiv 2404.06395).',
  budget: 'steps',
  baseline: { ...adamw, label: 'AdamW, cosine' },
  technique: { label: 'WSD', options: { schedule: 'wsd' }, lr: 8e-3 },
  when: 'When the length of the run may still change: keep the stable part and decay from any of its checkpoints.',
})
