import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'A lottery ticket at the price of one training',
  about: [{ kind: 'technique', name: 'lottery' }],
  claim: 'Pruned and rewound, a third of the weights trains as well as all of them (Frankle and Carbin, arXiv 1803.03635), each round costing a training.',
  budget: 'steps',
  baseline: { ...adamw, label: 'AdamW, dense' },
  technique: { label: '5 rounds, 33 % kept', options: { technique: ['lottery'] }, lr: 8e-3 },
  when: 'To study what a network needs. The search costs as many trainings as it has rounds, and the last one gets a sixth of this budget.',
})
