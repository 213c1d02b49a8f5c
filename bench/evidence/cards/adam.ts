import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Adam with decay in the gradient instead of AdamW',
  about: [{ kind: 'optimizer', name: 'adam' }],
  claim: 'Decay belongs beside the gradient, not in it; for small decay the two are close (Loshchilov and Hutter, arXiv 1711.05101).',
  budget: 'flops',
  baseline: adamw,
  technique: { label: 'Adam, decay 1e-4', options: { optimizer: 'adam:beta2=0.95', weightDecay: 1e-4 }, lr: 8e-3 },
  when: 'Only to repeat older results.',
})
