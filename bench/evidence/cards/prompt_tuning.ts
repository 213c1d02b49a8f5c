import { defineCard, tuning } from '../card'

export default defineCard({
  ...tuning,
  title: 'Prompt tuning instead of tuning every weight',
  about: [{ kind: 'technique', name: 'prompt_tuning' }],
  claim: 'With large models, a few trained vectors before the text come near to tuning everything (Lester et al., arXiv 2104.08691).',
  technique: { label: 'Prompt of 20', options: { technique: ['prompt_tuning'] }, lr: 0.3 },
  when: 'With models of billions of parameters; the paper itself finds it far behind with small ones.',
})
