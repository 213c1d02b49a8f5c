import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'AdamW without a schedule',
  about: [{ kind: 'optimizer', name: 'schedule_free' }],
  claim: 'Averaging the iterates replaces the decay of the learning rate, so that a run may end at any time (Defazio et al., arXiv 2405.15682).',
  budget: 'flops',
  baseline: adamw,
  technique: { label: 'schedule-free AdamW, constant rate', options: { optimizer: 'schedule_free:beta2=0.95', schedule: 'constant' }, lr: 8e-3 },
  when: 'When the length of the run is not known beforehand.',
})
