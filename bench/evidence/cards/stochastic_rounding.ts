import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'bf16 weights without f32 masters, rounded at random',
  about: [{ kind: 'technique', name: 'stochastic_rounding' }],
  claim: 'Stochastic rounding lets weights of 16 bits train as well as f32 masters (Zamirai et al., arXiv 2010.06192).',
  budget: 'steps',
  improves: 'peakBytes',
  options: { precision: 'bf16' },
  baseline: { ...adamw, label: 'bf16 with f32 masters' },
  technique: { label: 'bf16 weights, stochastic rounding', options: { technique: ['stochastic_rounding'] }, lr: 8e-3 },
  when: 'Where weights fill the memory. It saves 4 of the 14 bytes that a weight and its state take with AdamW in bf16: the master and its copy become one.',
})
