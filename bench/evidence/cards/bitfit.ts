import { defineCard, tuning } from '../card'

export default defineCard({
  ...tuning,
  title: 'Biases alone instead of every weight',
  about: [{ kind: 'technique', name: 'bitfit' }],
  claim: 'Tuning only the biases is competitive on small data (Ben Zaken et al., arXiv 2106.10199).',
  technique: { label: 'BitFit', options: { technique: ['bitfit'] }, lr: 8e-3 },
  when: 'For many small tasks on one large model; as LoRA, not for another language.',
})
