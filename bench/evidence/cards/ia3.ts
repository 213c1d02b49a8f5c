import { defineCard, tuning } from '../card'

export default defineCard({
  ...tuning,
  title: 'IA3 instead of tuning every weight',
  about: [{ kind: 'technique', name: 'ia3' }],
  claim: 'Three vectors a layer are enough to tune a model (Liu et al., arXiv 2205.05638).',
  technique: { label: 'IA3', options: { technique: ['ia3'] }, lr: 8e-3 },
  when: 'For many small tasks on one large model; as LoRA, not for another language.',
})
