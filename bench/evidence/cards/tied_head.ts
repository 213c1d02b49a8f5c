import { defineCard } from '../card'

export default defineCard({
  title: 'One table for embedding and head',
  claim: 'Sharing the token embedding with the head saves parameters and improves small models (Press and Wolf, arXiv 1608.05859).',
  budget: 'flops',
  baseline: { label: 'AdamW, a head of its own', options: { tiedHead: false }, lr: 8e-3 },
  technique: { label: 'shared table', options: { tiedHead: true }, lr: 8e-3 },
  when: 'Where the vocabulary is a large part of the parameters.',
})
