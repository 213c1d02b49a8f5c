// LayerDrop: which layers stay, how often layers are there, off is off, exact resume; and that a model trained with it
// works with half of its layers.
import { GPT } from '../../lib/models/gpt'
import { drawBranch } from '../../lib/nn/residual'
import { zeros } from '../../lib/ops/creation'
import { keepLayers, layerDrop, layersKept } from '../../lib/techniques/layer_drop'
import { seed } from '../../lib/tensor/random'
import { heldOutLoss, markovModel, markovTrainer, train } from '../support/markov'
import { logitsOf, resumedRun, shortRun } from '../support/depth'
import { tinyConfig } from '../support/tiny_gpt'

test('every other layer stays for a half, two of three for a third', () => {
  expect(layersKept(8, 0.5)).toEqual([0, 2, 4, 6])
  expect(layersKept(6, 1 / 3)).toEqual([0, 1, 3, 4])
  expect(layersKept(12, 0.25)).toHaveLength(9)
  expect(() => layersKept(8, 0.8)).toThrow(expect.objectContaining({ code: 'ERR_ARGUMENT' }))
})

test('layers are there as often as they should be, and not rescaled', () => {
  seed(2)
  const x = zeros([1, 1, 1])
  let kept = 0
  for (let i = 0; i < 5000; ++i) kept += Number(drawBranch({ keep: 0.8, unit: 'layer', per: 'batch', rescale: 'none' }, x) ?? 0)
  expect(Math.abs(kept / 5000 - 0.8)).toBeLessThan(3 * Math.sqrt((0.8 * 0.2) / 5000))
})

test('a model with fewer layers computes what its remaining layers do', async () => {
  seed(1)
  const whole = new GPT({ ...tinyConfig, layers: 4 })
  const before = await logitsOf(whole)
  keepLayers(whole, [0, 1, 2, 3])
  expect(await logitsOf(whole)).toEqual(before)
  keepLayers(whole, layersKept(4, 0.5))
  expect([whole.blocks.length, whole.config.layers]).toEqual([2, 2])
  expect(await logitsOf(whole)).not.toEqual(before)
  expect([...whole.namedParameters().keys()].some((name) => name.startsWith('blocks.2'))).toBe(false)
  whole.dispose()
})

test('p=0 is the run without it, bit for bit; otherwise it resumes exactly', async () => {
  expect(await shortRun(layerDrop.create({ p: 0 }))).toEqual(await shortRun(null))
  const make = () => layerDrop.create({ p: 0.5 })
  expect(await resumedRun(make, 4, 6, 3)).toEqual(await shortRun(make()))
})

// 8 layers for 1000 steps are minutes (LEANFORMER_LONG_TESTS=1); 4 layers at twice the rate for 400 show the same.
const long = process.env.LEANFORMER_LONG_TESTS === '1'
const { layers, steps, lr } = long ? { layers: 8, steps: 1000, lr: 1e-3 } : { layers: 4, steps: 400, lr: 2e-3 }
test('M2: with every other layer gone the loss is below full + 0.35, and 0.4 better than without LayerDrop', async () => {
  const pruned: number[] = []
  let full = 0
  for (const p of [0.2, 0]) {
    const technique = layerDrop.create({ p })
    const model = markovModel({ layers })
    technique.adapt!(model as never)
    await train(markovTrainer(model, { steps, lr, techniques: [technique] }))
    if (p) full = await heldOutLoss(model)
    keepLayers(model, layersKept(layers, 0.5))
    pruned.push(await heldOutLoss(model))
    model.dispose()
  }
  if (long) console.log('LayerDrop on M2: full, pruned, pruned without it:', full, ...pruned)
  expect(pruned[0]).toBeLessThan(full + 0.35)
  expect(pruned[0]).toBeLessThan(pruned[1] - 0.4)
}, 3_600_000)
