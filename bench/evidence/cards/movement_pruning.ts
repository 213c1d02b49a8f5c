import { defineCard, tuning } from '../card'

export default defineCard({
  ...tuning,
  title: 'Movement pruning in fine-tuning',
  about: [{ kind: 'technique', name: 'movement_pruning' }],
  claim: 'In fine-tuning, what a weight does says more than its size (Sanh et al., arXiv 2005.07683).',
  improves: 'loss',
  baseline: { label: 'Magnitude pruning, 15 % kept', options: { technique: ['magnitude_pruning:sparsity=0.85,start=0.1,end=0.8,every=10'] }, lr: 8e-3 },
  technique: { label: 'Movement pruning, 15 % kept', options: { technique: ['movement_pruning:kept=0.15'] }, lr: 8e-3 },
  when: 'At 15 % and below, on a task far from the pre-training; distillation nearly always goes with it.',
})
