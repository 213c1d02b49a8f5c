import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Lion instead of AdamW',
  about: [{ kind: 'optimizer', name: 'lion' }],
  claim: 'The sign of a momentum trains as well as Adam with half of the state (Chen et al., arXiv 2302.06675).',
  budget: 'flops',
  baseline: adamw,
  technique: { label: 'Lion, decay 0.3', options: { optimizer: 'lion', weightDecay: 0.3 }, lr: 1e-3 },
  when: 'In long runs where one moment less in memory matters and the learning rate can be searched; in this short one it is behind.',
})
