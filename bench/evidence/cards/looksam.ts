import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'SAM with a second pass in every fifth step',
  about: [{ kind: 'technique', name: 'looksam' }],
  claim: 'Reusing the sharpness direction for five steps keeps what SAM gains at a fifth of its extra cost (Liu et al., arXiv 2203.02714).',
  budget: 'flops',
  baseline: adamw,
  technique: { label: 'LookSAM', options: { technique: ['looksam'] }, lr: 8e-3 },
  when: 'In place of SAM where its second pass is too dear.',
})
