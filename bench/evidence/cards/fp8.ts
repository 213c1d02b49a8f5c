import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Products in FP8',
  about: [{ kind: 'technique', name: 'fp8' }],
  claim: 'E4M3 forward and E5M2 for gradients train to the loss of 16 bits (Micikevicius et al., arXiv 2209.05433).',
  budget: 'steps',
  options: { precision: 'bf16' },
  baseline: { ...adamw, label: 'bf16' },
  technique: { label: 'fp8, current scales', options: { technique: ['fp8:scaling=current'] }, lr: 8e-3 },
  when: 'To see what FP8 does to a model before it trains on a device that has it; here it is emulated, and slower.',
})
