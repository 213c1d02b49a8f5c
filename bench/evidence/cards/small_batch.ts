import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Half the batch, twice the steps',
  claim: 'Below the critical batch size the number of tokens decides, so smaller batches learn more from the same tokens (McCandlish et al., arXiv 1812.06162).',
  budget: 'flops',
  baseline: { ...adamw, label: 'AdamW, batch 8' },
  technique: { label: 'batch 4', options: { batch: 4 }, lr: 8e-3 },
  when: 'As long as the machine is still busy with the smaller batch; `leanformer` accumulates exactly where it must be larger.',
})
