import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Xavier instead of GPT-2 weights',
  about: [{ kind: 'initializer', name: 'xavier' }],
  claim: 'Weights scaled by the layer’s inputs and outputs keep the size of activations (Glorot and Bengio 2010).',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, GPT-2 weights', options: { init: 'gpt2' } },
  technique: { label: 'Xavier', options: { init: 'xavier' }, lr: 8e-3 },
  when: 'At small widths and in short runs; GPT-2’s 0.02 was chosen for a width of 768 and more.',
})
