import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'SwiGLU instead of GELU',
  claim: 'A gated feed-forward part is better at the same parameters and FLOPs (Shazeer, arXiv 2002.05202).',
  budget: 'flops',
  baseline: adamw,
  technique: { label: 'SwiGLU', options: { activation: 'swiglu' }, lr: 8e-3 },
  when: 'With a hidden size of two thirds, which keeps the FLOPs; at the full size, as here, its extra FLOPs buy less than more steps.',
})
