// Importance sampling: unbiased, variance as predicted, both forms of tau, good scores late in training, off where rows are
// alike, exact resume.
import { noGrad } from '../../lib/autograd/tape'
import { crossEntropy } from '../../lib/ops/cross_entropy'
import { reshape } from '../../lib/ops/reshape'
import { AdamW } from '../../lib/optim/adamw'
import { drawProbabilities, drawRows, equivalentGrowth, importanceSamplingEntry } from '../../lib/techniques/importance_sampling'
import { lastLayerNorm } from '../../lib/techniques/row_selection'
import { sampleGradientNorms } from '../../lib/techniques/sample_norms'
import { hostRandom } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { Markov } from '../support/markov'
import { rowsOf, Student, teacher, trainStudent } from '../support/teacher'
import { expectResume, outcome } from '../support/techniques'

const norm = (x: ArrayLike<number>) => Math.sqrt(Array.from(x).reduce((s, v) => s + v * v, 0))

test('weighted draws have the mean of the pool in every coordinate, and the predicted variance', () => {
  const random = hostRandom({ seed: 1, offset: 0 })
  const [n, width, b] = [300, 32, 10]
  // Gradients of very different sizes around a common one.
  const g = Array.from({ length: n }, () => {
    const size = Math.exp(1.2 * random.normal())
    return Array.from({ length: width }, () => size * (0.2 + random.normal()))
  })
  const mean = Array.from({ length: width }, (_, k) => g.reduce((s, x) => s + x[k], 0) / n)
  const variance = (p: Float64Array) => (g.reduce((s, x, i) => s + norm(x) ** 2 / p[i], 0) / n ** 2 - norm(mean) ** 2) / b
  const uniform = new Float64Array(n).fill(1 / n)
  const weighted = drawProbabilities(g.map(norm), 0)
  const measured = [uniform, weighted].map((p) => {
    const draws = 4000
    const sums = new Float64Array(width)
    const squares = new Float64Array(width)
    for (let t = 0; t < draws; ++t) {
      const estimate = new Float64Array(width)
      for (const i of drawRows(p, b, random.uniform)) for (let k = 0; k < width; ++k) estimate[k] += g[i][k] / (n * p[i] * b)
      estimate.forEach((x, k) => {
        sums[k] += x
        squares[k] += x * x
      })
    }
    let total = 0
    mean.forEach((m, k) => {
      const deviation = Math.sqrt((squares[k] - sums[k] ** 2 / draws) / (draws - 1))
      expect(Math.abs(sums[k] / draws - m)).toBeLessThan((3.5 * deviation) / Math.sqrt(draws))
      total += deviation ** 2
    })
    return total
  })
  expect(Math.abs(measured[0] / measured[1] / (variance(uniform) / variance(weighted)) - 1)).toBeLessThan(0.05)
})

test('both forms of tau agree; equal scores are worth nothing; zeros get a share', () => {
  const p = drawProbabilities([1, 2, 3, 10, 0.5])
  const u = 1 / p.length
  const distance = p.reduce((s, x) => s + (x - u) ** 2, 0)
  expect(Math.abs((1 - distance / p.reduce((s, x) => s + x * x, 0)) ** -0.5 - equivalentGrowth(p))).toBeLessThan(1e-12)
  expect(equivalentGrowth(drawProbabilities([7, 7, 7]))).toBeCloseTo(1, 12)
  expect(Math.min(...drawProbabilities([0, 1, 1], 0.1))).toBeCloseTo(0.1 / 3.3, 12)
  expect(Array.from(drawProbabilities([0, 0]))).toEqual([0.5, 0.5])
})

/** Rank correlation. */
function spearman(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const ranks = (x: ArrayLike<number>) => {
    const order = Array.from(x, (_, i) => i).sort((i, j) => x[i] - x[j])
    const out = new Float64Array(x.length)
    order.forEach((i, rank) => (out[i] = rank))
    return out
  }
  const [r, s] = [ranks(a), ranks(b)]
  const middle = (r.length - 1) / 2
  return r.reduce((sum, x, i) => sum + (x - middle) * (s[i] - middle), 0) / r.reduce((sum, x) => sum + (x - middle) ** 2, 0)
}

test('the bound from the last layer ranks rows as their gradient norms do late in training: correlation at least 0.7', async () => {
  const { train } = teacher()
  const student = new Student()
  const optimizer = new AdamW([{ parameters: student.namedParameters() }])
  await trainStudent(student, optimizer, train, { steps: 400, lr: 2e-3 })
  const { x, labels } = rowsOf(train, 0, 512)
  const bound = await scope(() => noGrad(() => lastLayerNorm(reshape(student.call(x), [512, 1, 10]), reshape(labels, [512, 1])))).toFloat64()
  const norms = await scope(() => sampleGradientNorms(crossEntropy(student.call(x), labels, { reduction: 'sum' }), 512)).toFloat64()
  expect(spearman(bound, norms)).toBeGreaterThan(0.7)
  optimizer.dispose()
  student.dispose()
})

const markov = { data: new Markov(1, 8, 16), config: { vocab: 16, layers: 1 } }

test('on M2, whose rows are alike, it never turns on: the run is that without it, bit for bit', async () => {
  const technique = importanceSamplingEntry.create({ score: 'exact', every: 2, threshold: 1.2 })
  const options = { ...markov, steps: 30 }
  expect(await outcome([technique], options)).toEqual(await outcome([], options))
  const [line] = await technique.summary!()
  expect(line).toMatch(/worth a batch 1\.0\d\d times .* on in 0 steps$/)
})

test.each(['last_layer', 'exact', 'loss'] as const)('turned on by force with score %s, the loss falls and a resume is exact', async (score) => {
  const make = () => [importanceSamplingEntry.create({ score, threshold: 0.5 })]
  const { losses } = await outcome(make(), { steps: 30 })
  expect(losses[29]).toBeLessThan(losses[0] - 0.5)
  await expectResume(make, { accumulate: 2, steps: 6, config: { dropout: 0.1 } })
})
