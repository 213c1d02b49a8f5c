import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Mean of the weights along the end of the run',
  about: [{ kind: 'technique', name: 'swa' }],
  claim: 'Averaging weights along the end of a run finds wider optima (Izmailov et al., arXiv 1803.05407).',
  budget: 'steps',
  baseline: adamw,
  technique: { label: 'SWA over the last quarter', options: { technique: ['swa'] }, lr: 8e-3 },
  when: 'With a learning rate that stays high; after a decay there is little left to average.',
})
