import { adamw, defineCard } from '../card'

export default defineCard({
  title: 'Distillation from a teacher of twice the layers',
  about: [{ kind: 'technique', name: 'distil' }],
  claim: "A student that starts from its teacher's layers and learns from its predictions beats one that learns from the text alone (Sanh et al., arXiv 1910.01108).",
  budget: 'flops',
  teacher: { layers: 4, steps: 1500, lr: 8e-3, seed: 7 },
  baseline: adamw,
  technique: { label: '2 of 4 layers, distilled', options: { technique: ['distil:teacher={teacher}'] }, lr: 8e-3 },
  when: "Where a trained teacher is there already: its own training is not in the budget, its predictions are.",
})
