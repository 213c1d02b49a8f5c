import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Linear attention instead of softmax',
  about: [{ kind: 'technique', name: 'linear_attention' }],
  claim: 'elu(x) + 1 as features is enough for many tasks, in linear time (Katharopoulos et al., arXiv 2006.16236).',
  budget: 'steps',
  improves: 'flops',
  options: { context: 128, batch: 2 },
  baseline: { ...adamw, label: 'Softmax over 128 tokens' },
  technique: { label: 'Linear attention', options: { technique: ['linear_attention'] }, lr: 8e-3 },
  when: 'With very long contexts or streams; it cannot look up single tokens as well.',
})
