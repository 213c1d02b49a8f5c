import { defineCard } from '../card'

export default defineCard({
  title: 'RigL instead of a fixed mask',
  about: [{ kind: 'technique', name: 'rigl' }],
  claim: 'Growing weights where gradients are large makes sparse training from scratch as good as dense (Evci et al., arXiv 1911.11134).',
  budget: 'steps',
  baseline: { label: 'Fixed random mask, 20 % kept', options: { technique: ['set:density=0.2,zeta=0'] }, lr: 8e-3 },
  technique: { label: 'RigL, 20 % kept', options: { technique: ['rigl:density=0.2,every=20'] }, lr: 8e-3 },
  when: 'To train a sparse model from scratch; masks save no time on devices that multiply zeros as well.',
})
