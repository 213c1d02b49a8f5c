import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'AMSGrad instead of AdamW',
  about: [{ kind: 'optimizer', name: 'amsgrad' }],
  claim: 'A second moment that never falls repairs the proof of convergence of Adam (Reddi et al., ICLR 2018).',
  budget: 'flops',
  baseline: adamw,
  technique: { label: 'AMSGrad', options: { optimizer: 'amsgrad:beta2=0.95' }, lr: 8e-3 },
  when: 'When a run must not take larger steps again late in training; otherwise AdamW.',
})
