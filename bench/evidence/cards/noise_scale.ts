import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Measuring the gradient noise scale',
  about: [{ kind: 'technique', name: 'noise_scale' }],
  claim: 'The norms of gradients that accumulation makes anyway say which batch pays (McCandlish et al., arXiv 1812.06162): training stays as it was.',
  budget: 'steps',
  options: { batch: 4, accumulate: 2 },
  baseline: { ...adamw, label: 'AdamW, 2 micro-batches' },
  technique: { label: 'Noise scale every 10 steps', options: { technique: ['noise_scale'] }, lr: 8e-3 },
  when: 'Once for a new task, with accumulation, before the batch is chosen.',
})
