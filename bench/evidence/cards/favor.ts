import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'FAVOR+ instead of softmax',
  about: [{ kind: 'technique', name: 'favor' }],
  claim: 'Random features give softmax attention in linear time (Choromanski et al., arXiv 2009.14794).',
  budget: 'steps',
  improves: 'loss',
  options: { context: 128, batch: 2 },
  baseline: { ...adamw, label: 'Softmax over 128 tokens' },
  technique: { label: 'FAVOR+, 64 features', options: { technique: ['favor:features=64'] }, lr: 8e-3 },
  when: 'With contexts far longer than the number of features, where softmax does not fit; logits must stay small.',
})
