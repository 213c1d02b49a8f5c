import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Forward products of int8 codes',
  about: [{ kind: 'technique', name: 'int8_training' }],
  claim: 'Forward products may be of int8 at the same loss, with gradients in full (Wortsman et al., arXiv 2304.13013).',
  budget: 'steps',
  improves: 'seconds',
  baseline: adamw,
  technique: { label: 'int8 forward products', options: { technique: ['int8_training'] }, lr: 8e-3 },
  when: 'On machines that multiply int8 faster than the format of the run, in layers wider than this card’s: rounding inputs and weights costs a pass over each.',
})
