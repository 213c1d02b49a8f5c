// Importance sampling: rows are drawn with probability p in proportion to a score of their gradients' norms, from a pool
// several times the batch, and weighted by 1 / (pool p), so that the expected gradient is that of the pool. It pays when
// tau = sqrt(n sum p^2), the equivalent growth of the batch, exceeds its price, and is off below: runs whose rows are alike
// (language models, as a rule) stay as they are, bit for bit. Scores only become good late in training.
// Adam sees unbiased gradients but other squares; clipping comes after the weights. Source: Katharopoulos and Fleuret,
// arXiv 1803.00942.
import { hostRandom } from '../tensor/random'
import { gatherRows, rowScores, rowsOf, type Score } from './row_selection'
import { defineTechnique, type Batch, type PrepareContext, type TrainingRun } from './technique'

/** Probabilities in proportion to scores, with `smoothing` times the mean score added so that none is 0. */
export function drawProbabilities(scores: ArrayLike<number>, smoothing = 0.1): Float64Array {
  const values = Float64Array.from(scores)
  const mean = values.reduce((a, b) => a + b, 0) / values.length
  const raised = values.map((x) => (mean > 0 ? x + smoothing * mean : 1))
  const total = raised.reduce((a, b) => a + b, 0)
  return raised.map((x) => x / total)
}

/** tau = sqrt(n sum p^2) = (1 - |p - u|^2 / |p|^2)^(-1/2) with uniform u: the growth of the batch that the drawing is worth. */
export function equivalentGrowth(p: Float64Array): number {
  return Math.sqrt(p.length * p.reduce((s, x) => s + x * x, 0))
}

/** `count` draws with replacement. `uniform` gives numbers in [0, 1). */
export function drawRows(p: Float64Array, count: number, uniform: () => number): number[] {
  const ends = new Float64Array(p.length)
  p.reduce((sum, x, i) => (ends[i] = sum + x), 0)
  return Array.from({ length: count }, () => {
    const u = uniform() * ends[ends.length - 1]
    let low = 0
    for (let high = p.length - 1; low < high; ) {
      const middle = (low + high) >> 1
      if (ends[middle] > u) high = middle
      else low = middle + 1
    }
    return low
  })
}

export const importanceSamplingEntry = defineTechnique({
  name: 'importance_sampling',
  title: 'Rows drawn by the norms of their gradients, where that pays',
  category: 'importance sampling',
  source: 'Katharopoulos and Fleuret, arXiv 1803.00942',
  settings: {
    score: { default: 'last_layer', choices: ['last_layer', 'exact', 'loss'], help: "bound of the gradient's norm, the norm itself, or the loss" },
    pool: { default: 3, min: 2, max: 32, integer: true, help: 'rows scored for each one drawn' },
    threshold: { default: 0, min: 0, help: 'growth of the batch from which it is on; 0: the price, (pool + 3) / 3' },
    smoothing: { default: 0.1, min: 0, help: 'share of the mean score added to every score' },
    momentum: { default: 0.9, min: 0, max: 0.999, help: 'of the average growth' },
    every: { default: 10, min: 1, integer: true, help: 'steps between scores while it is off' },
    seed: { default: 0, min: 0, integer: true, help: 'of the draws' },
  },
  decides: ['step_rows'],
  excludes: { distil: 'rows of a distillation have no weights' },
  neutral: { settings: { threshold: 1e9 } },
  make: ({ score, pool, threshold, smoothing, momentum, every, seed }) => {
    let run: TrainingRun
    let growth = 1
    let stepsOn = 0
    const limit = threshold > 0 ? threshold : (pool + 3) / 3
    const probabilities = async (batches: readonly Batch[]) => {
      const scores: number[] = []
      for (const batch of batches) scores.push(...(await rowScores(run, batch, score as Score)))
      const p = drawProbabilities(scores, smoothing)
      growth = momentum * growth + (1 - momentum) * equivalentGrowth(p)
      return p
    }
    async function choose(batches: readonly Batch[], { step, draw }: PrepareContext): Promise<readonly Batch[]> {
      const all = [...batches, ...Array.from({ length: batches.length * (pool - 1) }, (_, i) => draw(i))]
      const p = await probabilities(all)
      const rows = rowsOf(all)
      const targets = all.reduce((sum, batch) => sum + batch.tokens, 0)
      const count = batches.reduce((sum, batch) => sum + batch.batch, 0)
      const random = hostRandom({ seed, offset: step })
      const drawn = drawRows(p, count, random.uniform)
      const chosen = gatherRows(drawn.map((i) => rows[i]))
      // The trainer divides by the counted targets of what was drawn; the pool's mean is wanted.
      const weights = drawn.map((i) => chosen.tokens / (count * targets * p[i]))
      stepsOn++
      let first = 0
      return batches.map(({ batch }) => {
        const part = drawn.slice(first, first + batch).map((i) => rows[i])
        const out = gatherRows(part, weights.slice(first, first + batch))
        first += batch
        return out
      })
    }
    return {
      setup: (given) => void (run = given),
      async prepare(batches, context) {
        if (growth > limit) return choose(batches, context)
        if (context.step % every === 0) await probabilities(batches)
        return batches
      },
      summary: () =>
        Promise.resolve([
          `importance sampling: worth a batch ${growth.toFixed(3)} times as large, its price is ${limit.toFixed(3)}; on in ${stepsOn} steps`,
        ]),
      state: () => ({ data: { growth, stepsOn } }),
      load: ({ data }) => void ({ growth, stepsOn } = data as { growth: number; stepsOn: number }),
    }
  },
})
