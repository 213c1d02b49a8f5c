// Stochastic depth: probabilities, the expectation of the inverted form, the saved work, off is off, exact resume.
import { GPT } from '../../lib/models/gpt'
import { drawBranch } from '../../lib/nn/residual'
import { zeros } from '../../lib/ops/creation'
import { keepProbability, stochasticDepth } from '../../lib/techniques/stochastic_depth'
import { seed } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tinyConfig, tinyTrainer, trainAll } from '../support/tiny_gpt'
import { forwardFlops, logitsOf, resumedRun, shortRun } from '../support/depth'

test('probabilities fall in a straight line to that of the last layer', () => {
  expect([1, 2, 3, 4].map((l) => keepProbability(l, 4, 0.8))).toEqual([0.95, 0.9, 0.8500000000000001, 0.8])
})

test('on average the inverted branch is itself: within 4 deviations over 10 000 draws', () => {
  seed(2)
  const x = zeros([1, 1, 1])
  for (const keep of [0.9, 0.5]) {
    let sum = 0
    for (let i = 0; i < 10_000; ++i) sum += Number(drawBranch({ keep, unit: 'branch', per: 'batch', rescale: 'training' }, x) ?? 0)
    const deviation = Math.sqrt((1 - keep) / keep / 10_000)
    expect(Math.abs(sum / 10_000 - 1)).toBeLessThan(4 * deviation)
  }
})

test('a net of linear branches gives on average what it gives whole: within 4 deviations over 10 000 draws', () => {
  seed(6)
  const x = zeros([1, 1, 1])
  const gains = [0.5, -0.3, 0.8, 0.2, 0.4]
  let [sum, squares] = [0, 0]
  for (let i = 0; i < 10_000; ++i) {
    const out = gains.reduce((h, gain, l) => h + h * gain * Number(drawBranch({ keep: keepProbability(l + 1, 5, 0.5), unit: 'branch', per: 'batch', rescale: 'training' }, x) ?? 0), 1)
    sum += out
    squares += out * out
  }
  const mean = sum / 10_000
  expect(Math.abs(mean - gains.reduce((h, gain) => h * (1 + gain), 1))).toBeLessThan(4 * Math.sqrt((squares / 10_000 - mean * mean) / 10_000))
})

test('per sample: one factor a row', async () => {
  seed(2)
  const column = scope(() => drawBranch({ keep: 0.5, unit: 'branch', per: 'sample', rescale: 'training' }, zeros([400, 1, 1])))
  const values = await (column as ReturnType<typeof zeros>).toFloat64()
  expect(new Set(values)).toEqual(new Set([0, 2]))
  expect(values.reduce((a, b) => a + b) / 400).toBeGreaterThan(0.8)
  expect(values.reduce((a, b) => a + b) / 400).toBeLessThan(1.2)
})

test('the original form multiplies by the probability in evaluation', async () => {
  seed(1)
  const model = new GPT({ ...tinyConfig, layers: 1, norm: 'rms_norm' })
  model.eval()
  const before = await logitsOf(model)
  stochasticDepth.create({ form: 'original', keep: 0.5 }).adapt!(model as never)
  expect(await logitsOf(model)).not.toEqual(before)
  stochasticDepth.create({ keep: 0.5 }).adapt!(model as never)
  expect(await logitsOf(model)).toEqual(before)
  model.dispose()
})

test('the work of a forward pass falls by the expected share, within 10 %', async () => {
  seed(3)
  const model = new GPT({ ...tinyConfig, layers: 4 })
  const empty = new GPT({ ...tinyConfig, layers: 1 })
  const [whole, one] = [await forwardFlops(model), await forwardFlops(empty)]
  const perLayer = (whole - one) / 3
  stochasticDepth.create({ keep: 0.5 }).adapt!(model as never)
  model.train()
  const seen = await forwardFlops(model, 400)
  const expected = whole - perLayer * (4 - (0.875 + 0.75 + 0.625 + 0.5))
  expect(Math.abs(seen / expected - 1)).toBeLessThan(0.1)
  model.dispose()
  empty.dispose()
})

test('keep=1 is the run without it, bit for bit; otherwise runs differ, stay finite and resume exactly', async () => {
  const plain = await shortRun(null)
  expect(await shortRun(stochasticDepth.create({ keep: 1 }))).toEqual(plain)
  for (const per of ['batch', 'sample']) {
    const make = () => stochasticDepth.create({ keep: 0.5, per })
    const losses = await shortRun(make())
    expect(losses).not.toEqual(plain)
    expect(losses.every(Number.isFinite)).toBe(true)
    expect(await resumedRun(make, 4, 6, 3)).toEqual(losses)
  }
})

test('with checkpointing the same layers are dropped again', async () => {
  const losses: number[][] = []
  for (const checkpointing of [false, true]) {
    const technique = stochasticDepth.create({ keep: 0.5 })
    const { trainer, model } = tinyTrainer({ config: { layers: 4, checkpointing }, steps: 5, techniques: [technique], adapt: (m) => technique.adapt!(m as never) })
    losses.push(await trainAll(trainer))
    model.dispose()
  }
  expect(losses[1]).toEqual(losses[0])
})
