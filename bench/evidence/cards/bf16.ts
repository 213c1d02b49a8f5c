import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'BF16 products with f32 weights',
  claim: 'Products and activations in bfloat16 save memory and time at the same loss (Kalamkar et al., arXiv 1905.12322).',
  budget: 'steps',
  improves: 'peakBytes',
  baseline: adamw,
  technique: { label: 'bf16', options: { precision: 'bf16' }, lr: 8e-3 },
  when: 'Whenever activations fill the memory; for speed on processors with bf16 instructions and layers wider than this card’s.',
})
