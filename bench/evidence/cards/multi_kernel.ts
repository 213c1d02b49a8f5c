import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Half of the heads by a window',
  about: [{ kind: 'technique', name: 'multi_kernel' }],
  claim: 'Heads differ in what they need: some may attend by a cheaper kernel at the same loss (a definition of our own).',
  budget: 'steps',
  improves: 'flops',
  options: { context: 128, batch: 2 },
  baseline: { ...adamw, label: 'Softmax over 128 tokens' },
  technique: { label: 'One of 2 heads in a window of 32', options: { technique: ['multi_kernel:kernel=window,share=0.5,window=32'] }, lr: 8e-3 },
  kernels: {
    train: { layers: 4, width: 64, heads: 4, context: 256, batch: 4, steps: 1000, lr: 4e-3 },
    flags: { kernel: ['window32', 'window64', 'linear', 'favor64', 'int8'], limit: 0.01, points: 8 },
  },
  when: 'For models with many heads; choose heads by measurement, with `leanformer kernels`.',
})
