// Pruning by its own numbers: a shrunk model gives what the masked one gives, gates have the gradients of finite
// differences, FLOPs fall in proportion.
import { noGrad } from '../../lib/autograd/tape'
import { Bert } from '../../lib/models/bert'
import { GPT } from '../../lib/models/gpt'
import { Llama } from '../../lib/models/llama'
import { Rescale } from '../../lib/nn/rescale'
import { mul } from '../../lib/ops/elementwise'
import { keepLayers } from '../../lib/techniques/layer_drop'
import { best, gateScores, layerScores, pruneMagnitude, shrink, type PrunableModel } from '../../lib/techniques/prune'
import { getDevice } from '../../lib/tensor/device'
import { seed } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { relative } from '../support/goldens'
import { tinyConfig, tokenBatch } from '../support/tiny_gpt'

const batch = tokenBatch(0)
const ids = () => tensor(batch.inputs, [batch.batch, batch.context])
const targets = () => tensor(batch.targets, [batch.batch, batch.context])
const shape = { vocab: 31, context: 16, layers: 2, width: 32, heads: 4 }
const models = {
  gpt: () => new GPT(shape, { dtype: 'f64' }),
  llama: () => new Llama(shape, { dtype: 'f64' }),
  bert: () => new Bert(shape, { dtype: 'f64' }),
}

/** Zeros the inputs of a layer's last product that do not stay. */
function mask(model: PrunableModel, heads: number[], units: number[]): void {
  for (const { attention, mlp } of model.blocks) {
    const zero = (layer: typeof mlp.down, stays: (i: number) => boolean) => {
      const columns = layer.shape[1]
      const values = Array.from({ length: columns }, (_, i) => (stays(i) ? 1 : 0))
      layer.weight.set(scope(() => noGrad(() => mul(layer.weight.tensor, tensor(values, [1, columns], { dtype: 'f64' })))))
    }
    zero(attention.out, (i) => heads.includes(Math.floor(i / attention.headWidth)))
    zero(mlp.down, (i) => units.includes(i))
  }
}

test.each(Object.keys(models) as (keyof typeof models)[])('%s: shrunk is masked, in f64', async (name) => {
  seed(1)
  const model = models[name]()
  const [{ attention, mlp }] = model.blocks
  const before = attention.qkv.weight.tensor.size + mlp.up.weight.tensor.size
  const heads = [0, 2]
  const units = Array.from({ length: 40 }, (_, i) => 2 * i + 1)
  mask(model, heads, units)
  const logits = async () => noGrad(() => model.logits(ids())).toFloat64()
  const expected = await logits()
  for (const block of model.blocks) {
    block.attention.keepHeads(heads)
    block.mlp.keepUnits(units)
  }
  expect(relative(await logits(), expected)).toBeLessThan(1e-12)
  expect(attention.qkv.weight.tensor.size + mlp.up.weight.tensor.size).toBeLessThan(0.6 * before)
  expect([attention.heads, attention.out.shape, mlp.down.shape]).toEqual([2, [32, 16], [32, 40]])
})

test('a shrunk model generates with its cache, trains, and its FLOPs fall in proportion', async () => {
  const model = new GPT({ ...shape, vocab: 2 })
  const device = getDevice()
  const small = tensor(batch.inputs.map((id) => id % 2), [batch.batch, batch.context])
  const flops = async () => {
    const before = (await device.synchronize()).flops
    scope(() => noGrad(() => model.call(small)))
    return (await device.synchronize()).flops - before
  }
  const whole = await flops()
  for (const block of model.blocks) {
    block.attention.keepHeads([1, 3])
    block.mlp.keepUnits(Array.from({ length: 64 }, (_, i) => i))
  }
  const half = await flops()
  expect(half / whole).toBeGreaterThan(0.45)
  expect(half / whole).toBeLessThan(0.58)
  keepLayers(model, [1])
  expect((await flops()) / half).toBeLessThan(0.6)
  expect(model.config.layers).toBe(1)
  const cache = model.newCache()
  const [first, second] = [tensor(Int32Array.of(1), [1, 1]), tensor(Int32Array.of(0), [1, 1])]
  scope(() => noGrad(() => model.lastLogits(first, { cache })))
  const stepwise = await noGrad(() => model.lastLogits(second, { cache })).toFloat64()
  const at_once = await noGrad(() => model.lastLogits(tensor(Int32Array.of(1, 0), [1, 2]))).toFloat64()
  expect(relative(stepwise, at_once)).toBeLessThan(1e-5)
})

test('gates have the gradients of finite differences; the model is as it was', async () => {
  seed(2)
  const model = new GPT(shape, { dtype: 'f64' })
  const loss = () => model.loss(ids(), targets())
  const value = async () => scope(() => noGrad(loss)).item()
  const { heads, units } = await gateScores(model, [loss])
  expect(model.parameters().every(({ trainable }) => trainable)).toBe(true)
  expect(model.blocks.every(({ attention, mlp }) => attention.out.plain && mlp.down.plain)).toBe(true)
  const slope = async (layer: typeof model.blocks[0]['mlp']['down'], from: number, to: number) => {
    const adapter = new Rescale(layer, [{ name: 'x', from: 0, to: layer.shape[0] }], () => true)
    layer.adapter = adapter
    const columns = layer.shape[1]
    const at = async (gate: number) => {
      adapter.parts[0].factors.set(tensor(Array.from({ length: columns }, (_, i) => (i >= from && i < to ? gate : 1)), [columns], { dtype: 'f64' }))
      return value()
    }
    const found = ((await at(1 + 1e-5)) - (await at(1 - 1e-5))) / 2e-5
    layer.adapter = null
    return Math.abs(found)
  }
  const [{ attention, mlp }] = model.blocks
  for (const h of [0, 3]) expect(Math.abs((await slope(attention.out, 8 * h, 8 * h + 8)) - heads[0][h])).toBeLessThan(1e-8)
  for (const u of [0, 77]) expect(Math.abs((await slope(mlp.down, u, u + 1)) - units[0][u])).toBeLessThan(1e-8)
  shrink(model, { heads, units }, { heads: 2, units: 100 })
  expect(model.blocks.map((block) => [block.attention.heads, block.mlp.down.shape[1]])).toEqual([[2, 100], [2, 100]])
  expect(best([3, 1, 2], 2)).toEqual([0, 2])
})

test('layers that hardly turn the hidden state score lowest', async () => {
  seed(3)
  const model = new GPT({ ...shape, layers: 4 })
  for (const name of ['attention', 'mlp'] as const) {
    const layer = name === 'mlp' ? model.blocks[2].mlp.down : model.blocks[2].attention.out
    layer.weight.set(scope(() => noGrad(() => mul(layer.weight.tensor, 0.01))))
  }
  const scores = await layerScores(model, () => model.call(ids()))
  expect(scores[0]).toBe(Infinity)
  expect(best(scores, 3)).toEqual([0, 1, 3])
})

test.each(['global', 'layer'] as const)('unstructured, %s: the share of zeros, the largest stay', async (range) => {
  seed(4)
  const model = new GPT(shape)
  const masks = pruneMagnitude(model, 0.7, range)
  let [zeros, all] = [0, 0]
  for (const [path, mask] of masks) {
    const [values, stays] = [await model.state().get(`${path}.weight`)!.toFloat64(), await mask.toFloat64()]
    const own = Array.from(values).filter((value) => value === 0).length
    expect(own).toBe(Array.from(stays).filter((value) => value === 0).length)
    if (range === 'layer') expect(Math.abs(own / values.length - 0.7)).toBeLessThan(1e-3)
    zeros += own
    all += values.length
  }
  expect(Math.abs(zeros / all - 0.7)).toBeLessThan(1e-3)
  expect(pruneMagnitude(new GPT(shape), 0).size).toBe(masks.size)
  expect(() => pruneMagnitude(model, 1)).toThrow(/sparsity is 1/)
})

test('what cannot shrink says why', () => {
  expect(() => new Llama({ ...shape, kvHeads: 2 }).blocks[0].attention.keepHeads([0])).toThrow(/plain attention alone/)
  expect(() => new GPT(tinyConfig).blocks[0].attention.keepHeads([4])).toThrow(/heads 4 of 4/)
  expect(() => new GPT(tinyConfig).blocks[0].mlp.keepUnits([])).toThrow(/of 128/)
  expect(() => keepLayers(new GPT(tinyConfig), [2])).toThrow(/no layer 2 among 2/)
})
