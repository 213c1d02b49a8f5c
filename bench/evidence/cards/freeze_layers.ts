import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Layer freezing',
  about: [{ kind: 'technique', name: 'freeze_layers' }],
  claim: 'First layers settle early, so that their backward pass can be left out later (Brock et al., arXiv 1706.04983).',
  budget: 'flops',
  options: { layers: 4, steps: 400 },
  baseline: { ...adamw, label: 'AdamW, 4 layers' },
  technique: { label: 'first layer frozen after half of the steps', options: { technique: ['freeze_layers'] }, lr: 8e-3 },
  when: 'In tuning, or at the end of long runs.',
})
