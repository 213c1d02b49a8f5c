import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'SAM by micro-batch',
  about: [{ kind: 'technique', name: 'm_sam' }],
  claim: 'A perturbation for each micro-batch generalises better than one for the whole batch (Foret et al., arXiv 2010.01412).',
  budget: 'flops',
  options: { batch: 4, accumulate: 2 },
  baseline: { ...adamw, label: 'AdamW, 2 micro-batches' },
  technique: { label: 'm-SAM, rho 0.05', options: { technique: ['m_sam'] }, lr: 8e-3 },
  when: 'As SAM: in training over many epochs on little data.',
})
