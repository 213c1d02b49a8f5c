// Progressive layer dropping: its schedule, how often each layer is there, the work it saves, off is off, exact resume.
import { GPT } from '../../lib/models/gpt'
import { drawBranch } from '../../lib/nn/residual'
import { zeros } from '../../lib/ops/creation'
import { expectedLayers, keepRatio, progressiveLayerDropping } from '../../lib/techniques/progressive_layer_dropping'
import { keepProbability } from '../../lib/techniques/stochastic_depth'
import { seed } from '../../lib/tensor/random'
import { forwardFlops, resumedRun, shortRun } from '../support/depth'
import { tinyConfig } from '../support/tiny_gpt'

test('theta with gamma 0.01', () => {
  expect(keepRatio(0, 0.5, 0.01)).toBe(1)
  expect(keepRatio(100, 0.5, 0.01)).toBeCloseTo(0.68394, 5)
  expect(keepRatio(500, 0.5, 0.01)).toBeCloseTo(0.50337, 5)
  expect(expectedLayers(12, 0.5)).toBe(8.75)
})

test('each layer is there as often as its probability says, and divided by it', () => {
  seed(4)
  const x = zeros([1, 1, 1])
  for (const layer of [1, 6, 12]) {
    const keep = keepProbability(layer, 12, 0.5)
    let kept = 0
    for (let i = 0; i < 4000; ++i) {
      const factor = drawBranch({ keep, unit: 'layer', per: 'batch', rescale: 'training' }, x)
      if (factor !== null) {
        kept++
        expect(factor).toBe(1 / keep)
      }
    }
    expect(Math.abs(kept / 4000 - keep)).toBeLessThan(3 * Math.sqrt((keep * (1 - keep)) / 4000))
  }
})

test('12 layers at theta 0.5: a forward pass costs 20 to 27 % less', async () => {
  seed(3)
  const model = new GPT({ ...tinyConfig, layers: 12 })
  const whole = await forwardFlops(model)
  const technique = progressiveLayerDropping.create({ gamma: 100 })
  technique.setup!({ model: model as never, optimizer: null as never, parameters: model.namedParameters(), steps: 10, schedule: () => 1e-3, clip: 1, techniques: new Set<string>() })
  technique.step!(() => {}, { step: 5 } as never)
  model.train()
  const saved = 1 - (await forwardFlops(model, 300)) / whole
  // The head's share of the work stays.
  expect(saved).toBeGreaterThan(0.2)
  expect(saved).toBeLessThan(0.28)
  model.dispose()
})

test('end=1 is the run without it, bit for bit; otherwise it resumes exactly', async () => {
  expect(await shortRun(progressiveLayerDropping.create({ end: 1 }))).toEqual(await shortRun(null))
  const make = () => progressiveLayerDropping.create({ end: 0.3 })
  const losses = await shortRun(make())
  expect(losses.every(Number.isFinite)).toBe(true)
  expect(await resumedRun(make, 4, 6, 3)).toEqual(losses)
})
