import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Gradients applied in the backward pass',
  about: [{ kind: 'technique', name: 'update_in_backward' }],
  claim: 'A gradient that is applied and released as soon as it is complete takes no memory of its own, at the same numbers (Lv et al., arXiv 2306.09782).',
  budget: 'steps',
  improves: 'peakBytes',
  // Wide and with few tokens: what is held beside the weights is gradients and state, not activations.
  options: { layers: 6, width: 128, context: 16, batch: 1, steps: 300, clip: 0 },
  baseline: { ...adamw, label: 'AdamW, no clipping' },
  technique: { label: 'update_in_backward', options: { technique: ['update_in_backward'] }, lr: 8e-3 },
  when: 'When weights and their gradients fill the memory, and the run is stable without clipping: the norm of all gradients is known only afterwards.',
})
