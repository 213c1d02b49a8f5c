// SWA: the arithmetic mean of the weights at the ends of its cycles, exact resume.
import { Parameter } from '../../lib/nn/parameter'
import { startAverages, updateAverages } from '../../lib/techniques/ema'
import { swaEntry } from '../../lib/techniques/swa'
import type { Technique } from '../../lib/techniques/technique'
import { tensor } from '../../lib/tensor/tensor'
import { expectResume } from '../support/techniques'
import { tinyTrainer } from '../support/tiny_gpt'

test('the mean of the weights after steps 4, 6 and 8', async () => {
  const seen: Promise<Float64Array>[] = []
  const swa = swaEntry.create({ start: 0.25, every: 2 })
  let first: () => Promise<Float64Array>
  const watcher: Technique = {
    name: 'watcher',
    setup: ({ parameters }) => (first = () => [...parameters.values()][0].tensor.toFloat64()),
    step(next, { step }) {
      next()
      if ([3, 5, 7].includes(step)) seen.push(first())
    },
  }
  const { trainer, model } = tinyTrainer({ steps: 8, techniques: [swa, watcher] })
  for await (const { loss } of trainer.train()) expect(loss).toBeGreaterThan(0)
  const values = await Promise.all(seen)
  const mean = await [...swa.evaluationWeights!()!.values()][0].toFloat64()
  // The running mean is kept in f32.
  mean.forEach((x, i) => expect(Math.abs(x - (values[0][i] + values[1][i] + values[2][i]) / 3)).toBeLessThan(1e-8))
  model.dispose()
})

test('in f64 the running mean is the arithmetic one to 1e-12', async () => {
  const f64 = (x: number) => tensor([x], null, { dtype: 'f64' })
  const parameter = new Parameter(f64(0))
  const parameters = new Map([['p', parameter]])
  const means = startAverages(parameters)
  let sum = 0
  for (let n = 0; n < 30; ++n) {
    parameter.set(f64(Math.sin(n)))
    sum += Math.sin(n)
    updateAverages(means, parameters, 1 / (n + 1))
    expect(Math.abs((await means.get('p')!.item()) - sum / (n + 1))).toBeLessThan(1e-12)
  }
})

test('resumes bit for bit', () => expectResume(() => [swaEntry.create({ start: 0.25, every: 1 })], {}, [1, 5]))
