import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Muon instead of AdamW',
  about: [{ kind: 'optimizer', name: 'muon' }],
  claim: 'Orthogonalised momentum for the hidden matrices needs fewer steps to the same loss (Jordan et al. 2024; arXiv 2502.16982).',
  budget: 'flops',
  baseline: adamw,
  technique: { label: 'Muon', options: { optimizer: 'muon' }, lr: 8e-3 },
  when: 'For hidden matrices where the products of its iterations are small beside those of a step: large batches and long contexts.',
})
