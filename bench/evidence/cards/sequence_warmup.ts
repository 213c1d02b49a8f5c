import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Sequence-length warm-up',
  about: [{ kind: 'technique', name: 'sequence_warmup' }],
  claim: 'Short windows first make early steps cheap and stable (Li, Zhang and He, arXiv 2108.06084).',
  budget: 'flops',
  options: { layers: 4, steps: 400 },
  baseline: { ...adamw, label: 'AdamW, 4 layers' },
  technique: { label: 'windows from 8 to 32 tokens', options: { technique: ['sequence_warmup'] }, lr: 8e-3 },
  when: 'With long contexts and high rates; a context of 32 tokens has little to shorten.',
})
