import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Gradients applied one step later',
  about: [{ kind: 'technique', name: 'delayed_update' }],
  claim: 'After some steps of warm-up, gradients that are one step old do not change the loss (Ren et al., arXiv 2101.06840).',
  budget: 'steps',
  baseline: adamw,
  technique: { label: 'delayed_update from step 40', options: { technique: ['delayed_update'] }, lr: 8e-3 },
  when: 'Beside offload, where an update that waits for the disk or the host can run while the next step computes. It costs a second set of gradients.',
})
