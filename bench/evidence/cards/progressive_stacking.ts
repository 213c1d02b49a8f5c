import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Progressive stacking',
  about: [{ kind: 'technique', name: 'progressive_stacking' }],
  claim: 'Training half of the layers first and copying them on top saves FLOPs (Gong et al. 2019).',
  budget: 'flops',
  options: { layers: 4, steps: 400 },
  baseline: { ...adamw, label: 'AdamW, 4 layers' },
  technique: { label: '2 layers, then 4', options: { technique: ['progressive_stacking'] }, lr: 8e-3 },
  when: 'In deep models with long runs, where the shallow part of the run is most of what is saved.',
})
