import { defineCard, tuning } from '../card'

export default defineCard({
  ...tuning,
  title: 'Prefix tuning instead of tuning every weight',
  about: [{ kind: 'technique', name: 'prefix_tuning' }],
  claim: 'Trained keys and values before the text tune a frozen model with a thousandth of its parameters (Li and Liang, arXiv 2101.00190).',
  technique: { label: 'Prefix of 16', options: { technique: ['prefix_tuning'] }, lr: 3.2e-2 },
  when: 'For many small tasks on one large model; a small one that must learn another language needs its weights.',
})
