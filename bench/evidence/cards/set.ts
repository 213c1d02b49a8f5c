import { defineCard } from '../card'

export default defineCard({
  title: 'SET instead of a fixed mask',
  about: [{ kind: 'technique', name: 'set' }],
  claim: 'Dropping small weights and growing random ones finds better sparse networks than a fixed mask (Mocanu et al., arXiv 1707.04780).',
  budget: 'steps',
  baseline: { label: 'Fixed random mask, 20 % kept', options: { technique: ['set:density=0.2,zeta=0'] }, lr: 8e-3 },
  technique: { label: 'SET, 20 % kept', options: { technique: ['set:density=0.2,every=20'] }, lr: 8e-3 },
  when: 'As RigL, where no dense gradient is to be had.',
})
