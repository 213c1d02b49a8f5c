import { defineCard, tuning } from '../card'

export default defineCard({
  ...tuning,
  title: 'Adapters instead of tuning every weight',
  about: [{ kind: 'technique', name: 'adapters' }],
  claim: 'Bottlenecks between frozen layers tune as well with few parameters (Houlsby et al., arXiv 1902.00751).',
  technique: { label: 'adapters', options: { technique: ['adapters'] }, lr: 8e-3 },
  when: 'As LoRA, where layers may get slower.',
})
