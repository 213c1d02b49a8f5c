import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Adafactor instead of AdamW',
  about: [{ kind: 'optimizer', name: 'adafactor' }],
  claim: 'Row and column means in place of the second moment save nearly all of its memory at about the same loss (Shazeer and Stern, arXiv 1804.04235).',
  budget: 'flops',
  baseline: adamw,
  technique: { label: 'Adafactor', options: { optimizer: 'adafactor:relative=false' }, lr: 8e-3 },
  when: 'When optimiser state is what does not fit.',
})
