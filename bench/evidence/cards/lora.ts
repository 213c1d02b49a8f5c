import { defineCard, tuning } from '../card'

export default defineCard({
  ...tuning,
  title: 'LoRA instead of tuning every weight',
  about: [{ kind: 'technique', name: 'lora' }],
  claim: 'Low-rank changes of a frozen model need a fraction of the optimiser state and tune as well (Hu et al., arXiv 2106.09685).',
  technique: { label: 'LoRA, rank 8, every matrix', options: { technique: ['lora:targets=all'] }, lr: 8e-3 },
  when: 'Where a large model is tuned for a task near to what it knows. A small model that must learn another language needs all of its weights.',
})
