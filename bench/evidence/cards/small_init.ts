import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Small first weights',
  about: [{ kind: 'initializer', name: 'small_init' }],
  claim: 'N(0, sqrt(2 / (5 d))) and branches divided by their number train better than Xavier with layers normalised first (Nguyen and Salazar, arXiv 1910.05895).',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, Xavier' },
  technique: { label: 'small init', options: { init: 'small_init' }, lr: 8e-3 },
  when: 'At larger widths and depths; at a width of 32 Xavier’s larger weights start faster.',
})
