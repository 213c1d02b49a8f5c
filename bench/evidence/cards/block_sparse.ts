import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Block-sparse attention',
  about: [{ kind: 'technique', name: 'block_sparse' }],
  claim: 'Fixed sparse patterns cost less than all pairs at about the same loss (Child et al., arXiv 1904.10509).',
  budget: 'steps',
  improves: 'flops',
  options: { context: 128, batch: 2 },
  baseline: { ...adamw, label: 'Softmax over 128 tokens' },
  technique: { label: 'Longformer: 32 before and 1 for all', options: { technique: ['block_sparse:pattern=longformer,window=32,block=16'] }, lr: 8e-3 },
  when: 'From a few thousand tokens on; below, blocks cover nearly everything.',
})
