import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Rotary positions instead of a learned table',
  claim: 'Turning queries and keys by their position encodes relative distance without parameters (Su et al., arXiv 2104.09864).',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, learned positions', options: { positions: 'learned' } },
  technique: { label: 'rotary', options: { positions: 'rotary' }, lr: 8e-3 },
  when: 'In new models, most of all for short runs: nothing has to be learned before attention can look at the previous token.',
})
