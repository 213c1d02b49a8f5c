import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Stochastic depth',
  about: [{ kind: 'technique', name: 'stochastic_depth' }],
  claim: 'Dropping residual branches at random saves time and regularises deep networks (Huang et al., arXiv 1603.09382).',
  budget: 'flops',
  options: { layers: 4, steps: 400 },
  baseline: { ...adamw, label: 'AdamW, 4 layers' },
  technique: { label: 'stochastic depth, keep 0.8', options: { technique: ['stochastic_depth'] }, lr: 8e-3 },
  when: 'In deep networks trained for many epochs.',
})
