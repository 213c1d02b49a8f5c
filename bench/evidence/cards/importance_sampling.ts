import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Importance sampling by gradient norms',
  about: [{ kind: 'technique', name: 'importance_sampling' }],
  claim: 'Drawing rows by the norm of their gradient lowers the variance of a step where that pays for the scoring (Katharopoulos and Fleuret, arXiv 1803.00942).',
  budget: 'flops',
  forecastOn: 'cpu', // it chooses by numbers, which meta has none of
  baseline: adamw,
  technique: { label: 'importance sampling', options: { technique: ['importance_sampling'] }, lr: 8e-3 },
  when: 'Where rows differ widely in difficulty, as in classification late in training; windows of one book are too alike.',
})
