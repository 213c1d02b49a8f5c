import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Backward passes for rows with high losses only',
  about: [{ kind: 'technique', name: 'selective_backprop' }],
  claim: 'Skipping the backward pass of easy rows reaches the same loss with less computation (Jiang et al., arXiv 1910.00762).',
  budget: 'flops',
  forecastOn: 'cpu', // it chooses by numbers, which meta has none of
  baseline: adamw,
  technique: { label: 'selective backprop, a third kept', options: { technique: ['selective_backprop'] }, lr: 8e-3 },
  when: 'Where many rows are learned already; not in language modelling below an epoch, where it also biases the loss.',
})
