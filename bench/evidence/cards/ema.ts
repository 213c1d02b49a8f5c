import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Exponential moving average of the weights',
  about: [{ kind: 'technique', name: 'ema' }],
  claim: 'Evaluating an average of the weights removes the noise of the last steps (Polyak and Juditsky 1992).',
  budget: 'steps',
  baseline: adamw,
  technique: { label: 'EMA, decay 0.99', options: { technique: ['ema:decay=0.99'] }, lr: 8e-3 },
  when: 'With a rate that stays high; where it decays, as here, the last weights are better than their average with earlier ones.',
})
