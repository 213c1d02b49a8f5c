import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'AdamW state on disk',
  about: [{ kind: 'technique', name: 'offload' }],
  claim: 'State that waits outside of memory between updates leaves room for a larger model, at the same numbers (Ren et al., arXiv 2101.06840).',
  budget: 'steps',
  improves: 'peakBytes',
  options: { layers: 4, width: 64, batch: 2, steps: 200 },
  baseline: adamw,
  technique: { label: 'offload', options: { technique: ['offload:piece=64KiB'] }, lr: 8e-3 },
  when: 'When weights and their state fill the memory, not the activations. Every step moves the whole state twice, so large batches (accumulation) hide it best.',
})
