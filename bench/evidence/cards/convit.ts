import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Attention that starts as a convolution',
  about: [{ kind: 'initializer', name: 'convit' }],
  claim: 'Gated positional attention that starts by looking at the last tokens learns faster from little data (d\'Ascoli et al., arXiv 2103.10697).',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, Xavier' },
  technique: { label: 'GPSA in every layer', options: { init: 'convit' }, lr: 8e-3 },
  when: 'Where data are scarce and scores may be stored, most of all for images; in this short run its extra FLOPs were not worth it.',
})
