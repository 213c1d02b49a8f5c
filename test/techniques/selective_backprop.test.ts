// Selective backprop: the share kept, the expectation with inverse weights, arithmetic saved, harm by wrong labels, neutral
// and exact resume.
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { crossEntropy } from '../../lib/ops/cross_entropy'
import { AdamW } from '../../lib/optim/adamw'
import { keepProbabilities, selectiveBackpropEntry } from '../../lib/techniques/selective_backprop'
import { hostRandom } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { accuracy, rowsOf, Student, teacher, type Examples } from '../support/teacher'
import { expectResume, outcome } from '../support/techniques'
import { tinyTrainer } from '../support/tiny_gpt'

test.each([1, 2, 3])('beta %i keeps 1 / (1 + beta) of the rows, and inverse weights give the mean of all', (beta) => {
  const random = hostRandom({ seed: 9, offset: beta })
  let history: number[] = []
  const n = 12_000
  let [kept, sum, corrected, squares] = [0, 0, 0, 0]
  for (let t = 0; t < n / 60; ++t) {
    const losses = Array.from({ length: 60 }, () => Math.exp(random.normal()))
    const p = keepProbabilities(losses, history, beta)
    history = [...history, ...losses].slice(-1024)
    if (t < 18) continue
    losses.forEach((loss, i) => {
      sum += 1
      const u = random.uniform()
      if (u < p[i]) kept++
      // Inverse probabilities need a bound for their sum to settle.
      const bounded = Math.max(0.01, p[i])
      const term = u < bounded ? 1 / bounded : 0
      // Of a function that is 1 for every row, so that the mean is known.
      corrected += term
      squares += term * term
    })
  }
  const share = 1 / (1 + beta)
  expect(Math.abs(kept / sum - share)).toBeLessThan(3 * Math.sqrt((share * (1 - share)) / sum))
  expect(Math.abs(corrected / sum - 1)).toBeLessThan((3 * Math.sqrt(squares / sum)) / Math.sqrt(sum))
})

test('a row seen costs a third of a step and a row kept a whole one', async () => {
  const flops = []
  let line = ''
  for (const techniques of [[], [selectiveBackpropEntry.create({ beta: 2 })]]) {
    const { trainer, model } = tinyTrainer({ steps: 20, techniques })
    let total = 0
    for await (const metrics of trainer.train()) total += metrics.flops
    flops.push(total)
    ;[line = ''] = await trainer.summary()
    model.dispose()
  }
  const [kept, seen] = /kept (\d+) of (\d+) rows/.exec(line)!.slice(1).map(Number)
  // The head's product for the logits and the update count too.
  expect(Math.abs(flops[1] / flops[0] / (1 + seen / kept / 3) - 1)).toBeLessThan(0.1)
})

/** Accuracy on clean rows after training on the rows chosen by loss, or on all. */
async function trained(data: Examples, test: Examples, beta: number): Promise<number> {
  const student = new Student(3)
  const optimizer = new AdamW([{ parameters: student.namedParameters() }])
  const random = hostRandom({ seed: 4, offset: 0 })
  let history: number[] = []
  let at = 0
  for (let step = 0; step < 400; ++step) {
    const chosen: number[] = []
    while (chosen.length < 128) {
      const { x, labels } = rowsOf(data, at, 128)
      const losses = beta ? await scope(() => noGrad(() => crossEntropy(student.call(x), labels, { reduction: 'none' }))).toFloat64() : new Float64Array(128)
      const p = keepProbabilities(losses, history, beta)
      history = [...history, ...losses].slice(-1024)
      p.forEach((keep, i) => random.uniform() < keep && chosen.push((at + i) % data.count))
      at += 128
    }
    scope(() => {
      const rows = chosen.slice(0, 128)
      const x = new Float32Array(128 * 64)
      rows.forEach((row, i) => x.set(data.x.subarray(row * 64, row * 64 + 64), i * 64))
      optimizer.zeroGrad()
      backward(crossEntropy(student.call(tensor(x, [128, 64])), tensor(Int32Array.from(rows, (row) => data.labels[row]))))
      optimizer.step(2e-3)
    })
  }
  const result = await accuracy(student, test)
  optimizer.dispose()
  student.dispose()
  return result
}

test('with a third of the labels wrong, training on high losses is worse than training on all rows', async () => {
  const { train, test: clean } = teacher()
  const random = hostRandom({ seed: 8, offset: 0 })
  const labels = train.labels.map((label) => (random.uniform() < 1 / 3 ? Math.floor(random.uniform() * 10) : label))
  const noisy = { ...train, labels }
  expect(await trained(noisy, clean, 2)).toBeLessThan((await trained(noisy, clean, 0)) - 0.02)
}, 60_000)

test('beta 0 is the run without it, bit for bit; otherwise it trains and resumes exactly', async () => {
  const options = { steps: 4, config: { dropout: 0.1 } }
  expect(await outcome([selectiveBackpropEntry.create({ beta: 0 })], options)).toEqual(await outcome([], options))
  for (const unbiased of [false, true]) {
    await expectResume(() => [selectiveBackpropEntry.create({ beta: 1, unbiased })], { steps: 6, accumulate: 2 })
  }
})
