// Selective backprop: rows are looked at by a forward pass and kept with probability (share of the last `history` losses
// below theirs)^beta; the kept ones, gathered into full batches, are trained on. beta 2 keeps a third. A row seen costs a
// third of a training step, a row kept a whole one (its forward pass is repeated with gradients). Biased towards high losses
// by design, and so towards wrong labels; `unbiased` weights rows by the inverse of their probability. Ours is `least`: while
// the loss falls fast, new losses rank below all remembered ones, and next to nothing would be kept.
// Source: Jiang et al., arXiv 1910.00762.
import { LeanformerError } from '../native/errors'
import { hostRandom } from '../tensor/random'
import { gatherRows, rowScores, rowsOf } from './row_selection'
import { defineTechnique, type Batch, type TrainingRun } from './technique'

/** Share of `history` (the last losses) at or below each loss, to the power beta, but at least `least`; 1 without history. */
export function keepProbabilities(losses: ArrayLike<number>, history: readonly number[], beta: number, least = 0): number[] {
  const sorted = [...history].sort((a, b) => a - b)
  return Array.from(losses, (loss) => {
    let low = 0
    for (let high = sorted.length; low < high; ) {
      const middle = (low + high) >> 1
      if (sorted[middle] <= loss) low = middle + 1
      else high = middle
    }
    return sorted.length ? Math.max(least, (Math.max(1, low) / sorted.length) ** beta) : 1
  })
}

export const selectiveBackpropEntry = defineTechnique({
  name: 'selective_backprop',
  title: 'Training on the rows with high losses',
  category: 'importance sampling',
  source: 'Jiang et al., arXiv 1910.00762',
  settings: {
    beta: { default: 2, min: 0, help: 'selectivity: 1 / (1 + beta) of the rows are kept' },
    history: { default: 1024, min: 1, integer: true, help: 'losses that a new one is ranked among' },
    least: { default: 0.05, min: 0, max: 1, help: 'smallest probability of keeping a row; 0 in the paper' },
    unbiased: { default: false, help: 'weight rows by the inverse of their probability' },
    seed: { default: 0, min: 0, integer: true, help: 'of the choices' },
  },
  decides: ['step_rows'],
  neutral: { settings: { beta: 0 } },
  make: ({ beta, history, least, unbiased, seed }) => {
    let run: TrainingRun
    let losses: number[] = []
    let counts = { seen: 0, kept: 0 }
    return {
      setup: (given) => void (run = given),
      async prepare(batches, { step, draw }) {
        if (beta === 0) return batches
        const needed = batches.reduce((sum, { batch }) => sum + batch, 0)
        const random = hostRandom({ seed, offset: step })
        const kept: { batch: Batch; row: number; weight: number }[] = []
        const refused: { batch: Batch; row: number; weight: number }[] = []
        let seen = 0
        for (let i = 0; kept.length < needed; ++i) {
          if (i >= 64) {
            // Those that were most likely to be kept, unless weights would then be wrong.
            if (unbiased) throw new LeanformerError('ERR_OPTION', `selective_backprop: too few rows are kept with beta ${beta}`, 'give a smaller beta or a larger least')
            kept.push(...refused.sort((a, b) => a.weight - b.weight).slice(0, needed - kept.length))
            break
          }
          const batch = i < batches.length ? batches[i] : draw(i)
          const scores = await rowScores(run, batch, 'loss')
          const probabilities = keepProbabilities(scores, losses, beta, least)
          losses = [...losses, ...scores].slice(-history)
          rowsOf([batch]).forEach((row, k) => {
            if (kept.length === needed) return
            seen++
            const chosen = random.uniform() < probabilities[k] ? kept : refused
            chosen.push({ ...row, weight: 1 / probabilities[k] })
          })
        }
        counts = { seen: counts.seen + seen, kept: counts.kept + needed }
        let first = 0
        return batches.map(({ batch: rows }) => {
          const part = kept.slice(first, (first += rows))
          // The sum of kept rows over their probability stands for the sum of all rows seen.
          return gatherRows(part, unbiased ? part.map(({ weight }) => (weight * needed) / seen) : undefined)
        })
      },
      summary: () => Promise.resolve([`selective backprop: kept ${counts.kept} of ${counts.seen} rows`]),
      state: () => ({ data: { losses, counts } }),
      load: ({ data }) => void ({ losses, counts } = data as { losses: number[]; counts: typeof counts }),
    }
  },
})
