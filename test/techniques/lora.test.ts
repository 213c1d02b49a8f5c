// LoRA, rsLoRA and DoRA by their own numbers: identity at first, gradients, merging, counts, scaling with the rank; and a
// run of the technique in the trainer.
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { GPT } from '../../lib/models/gpt'
import { Linear } from '../../lib/nn/linear'
import { LowRank } from '../../lib/nn/low_rank'
import { mul } from '../../lib/ops/elementwise'
import { sum } from '../../lib/ops/reductions'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import { addLoRA, lora, loraLayers, mergeLoRA, unmergeLoRA } from '../../lib/techniques/lora'
import { trainedCount } from '../../lib/techniques/train_only'
import { Generator, seed } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { randn } from '../../lib/ops/random'
import { relative } from '../support/goldens'
import { tinyConfig, tinyTrainer, tokenBatch, trainAll } from '../support/tiny_gpt'

const batch = tokenBatch(0)
const ids = () => tensor(batch.inputs, [batch.batch, batch.context])
const targets = () => tensor(batch.targets, [batch.batch, batch.context])
const all = ['q', 'k', 'v', 'out', 'up', 'down']
const forms = [['LoRA', {}], ['rsLoRA', { rankStabilised: true }], ['DoRA', { magnitudes: true }]] as const

function model(): GPT {
  seed(1)
  return new GPT(tinyConfig)
}
const logits = async (gpt: GPT) => noGrad(() => gpt.logits(ids())).toFloat64()

/** Trained-like adapters: B away from 0. */
function stir(gpt: GPT): void {
  const generator = new Generator(9)
  for (const { adapter } of loraLayers(gpt).values()) {
    for (const { b } of adapter.parts) b.set(scope(() => mul(randn([...b.shape], { generator }), 0.05)))
  }
}

test.each(forms)('%s: step 0 is the base model, bit for bit; only B (and m) have a gradient', async (_, form) => {
  const gpt = model()
  const before = await logits(gpt)
  const trained = addLoRA(gpt, { rank: 4, alpha: 8, targets: ['q', 'v'], ...form })
  expect(await logits(gpt)).toEqual(before)
  scope(() => backward(gpt.loss(ids(), targets())))
  for (const [name, { grad }] of gpt.namedParameters()) {
    if (!name.includes('.adapter.')) expect([name, grad]).toEqual([name, null])
    else {
      const largest = Math.max(...(await grad!.toFloat64()).map(Math.abs))
      expect([name, largest > 0]).toEqual([name, !/\.a$/.test(name)])
    }
  }
  const magnitudes = 'magnitudes' in form ? 2 * tinyConfig.width : 0
  // r (in + out) for each of two matrices in each layer.
  expect(trained).toBe(tinyConfig.layers * (2 * 4 * 2 * tinyConfig.width + magnitudes))
  expect(trainedCount(gpt)).toBe(trained)
})

test.each(forms)('%s on all matrices: merged as unmerged, and back', async (_, form) => {
  const gpt = model()
  const plain = gpt.state().get('blocks.1.mlp.up.weight')!
  const original = Float64Array.from(await plain.toFloat64())
  addLoRA(gpt, { rank: 4, alpha: 8, targets: all, ...form })
  stir(gpt)
  const apart = await logits(gpt)
  mergeLoRA(gpt)
  expect(relative(await logits(gpt), apart)).toBeLessThan(1e-5)
  expect(relative(await gpt.state().get('blocks.1.mlp.up.weight')!.toFloat64(), original)).toBeGreaterThan(1e-3)
  unmergeLoRA(gpt)
  expect(relative(await gpt.state().get('blocks.1.mlp.up.weight')!.toFloat64(), original)).toBeLessThan(1e-6)
  expect(relative(await logits(gpt), apart)).toBeLessThan(1e-6)
})

test("after one SGD step the output's change is flat in the rank for alpha / sqrt(r), and falls like 1 / r for alpha / r", async () => {
  const width = 64
  const layer = new Linear(width, 8, { bias: false })
  const x = randn([1, width], { generator: new Generator(3) })
  const delta = randn([1, 8], { generator: new Generator(4) })
  const change = async (rank: number, rankStabilised: boolean) => {
    const generator = new Generator(5)
    let total = 0
    for (let draw = 0; draw < 50; ++draw) {
      layer.adapter = new LowRank(layer, [{ name: 'x', from: 0, to: 8 }], { rank, alpha: 1, rankStabilised, generator })
      const before = await noGrad(() => layer.call(x)).toFloat64()
      scope(() => backward(sum(mul(layer.call(x), delta))))
      const { b } = (layer.adapter as LowRank).parts[0]
      b.set(scope(() => mul(b.grad!, -0.1)))
      const after = await noGrad(() => layer.call(x)).toFloat64()
      total += Math.hypot(...Float64Array.from(after).map((y, i) => y - before[i])) / 50
      layer.adapter.dispose()
    }
    return total
  }
  const ranks = [8, 64, 512]
  const [stable, plain]: number[][] = [[], []]
  for (const rank of ranks) {
    stable.push(await change(rank, true))
    plain.push(await change(rank, false))
  }
  for (const value of stable) expect(Math.abs(value / stable[0] - 1)).toBeLessThan(0.15)
  for (const [i, rank] of ranks.entries()) expect(Math.abs((plain[i] * rank) / (plain[0] * 8) - 1)).toBeLessThan(0.15)
})

test('DoRA: merging gives m (W + s B A) / |W + s B A|, and the gradient of m is delta times the unit rows', async () => {
  const layer = new Linear(6, 4, { generator: new Generator(1), dtype: 'f64' })
  const rows = [{ name: 'k', from: 1, to: 3 }]
  const adapter = new LowRank(layer, rows, { rank: 2, alpha: 3, magnitudes: true, dtype: 'f64', generator: new Generator(2) })
  layer.adapter = adapter
  const [part] = adapter.parts
  const set = (parameter: typeof part.b, values: Tensor) => parameter.set(values)
  set(part.b, randn([2, 2], { dtype: 'f64', generator: new Generator(3) }))
  set(part.magnitude!, tensor([0.7, 1.9], [2], { dtype: 'f64' }))
  const w = await layer.weight.tensor.toFloat64()
  const [a, b] = [await part.a.tensor.toFloat64(), await part.b.tensor.toFloat64()]
  // In plain numbers: rows 1 and 2 change.
  const changed = Array.from({ length: 4 }, (_, i) =>
    Array.from({ length: 6 }, (_, j) => w[i * 6 + j] + (i === 1 || i === 2 ? 1.5 * (b[(i - 1) * 2] * a[j] + b[(i - 1) * 2 + 1] * a[6 + j]) : 0)),
  )
  const unit = changed.map((row) => row.map((value) => value / Math.hypot(...row)))
  const expected = changed.flatMap((row, i) => (i === 1 || i === 2 ? unit[i].map((value) => value * [0.7, 1.9][i - 1]) : row))
  const x = randn([5, 6], { dtype: 'f64', generator: new Generator(4) })
  const delta = randn([5, 4], { dtype: 'f64', generator: new Generator(5) })
  scope(() => backward(sum(mul(layer.call(x), delta))))
  const [xs, ds] = [await x.toFloat64(), await delta.toFloat64()]
  const dm = [1, 2].map((i) => {
    let total = 0
    for (let n = 0; n < 5; ++n) for (let j = 0; j < 6; ++j) total += ds[n * 4 + i] * xs[n * 6 + j] * unit[i][j]
    return total
  })
  expect(relative(await part.magnitude!.grad!.toFloat64(), dm)).toBeLessThan(1e-12)
  adapter.merge(layer)
  expect(relative(await layer.weight.tensor.toFloat64(), expected)).toBeLessThan(1e-12)
})

test('dropout is on the low-rank path alone, and in training alone', async () => {
  const gpt = model()
  addLoRA(gpt, { rank: 4, targets: all, dropout: 0.5 })
  const before = await logits(gpt)
  expect(await logits(gpt)).toEqual(before) // B is 0: whatever is dropped, nothing is added
  stir(gpt)
  expect(await logits(gpt)).not.toEqual(await logits(gpt))
  gpt.eval()
  expect(await logits(gpt)).toEqual(await logits(gpt))
})

test('the technique trains its adapters alone, in bf16 too, and lowers the loss', async () => {
  for (const precision of ['f32', 'bf16'] as const) {
    const technique = lora.create({ rank: 8, targets: 'all' })
    seed(1)
    const gpt = new GPT(tinyConfig)
    technique.adapt!(gpt)
    const frozen = await gpt.state().get('blocks.0.attention.qkv.weight')!.toFloat64()
    const { trainer } = tinyTrainer({ model: gpt, optimizer: new AdamW(decayGroups(gpt.namedParameters(), 0)), techniques: [technique], steps: 30, precision })
    const losses = await trainAll(trainer)
    expect(losses.at(-1)!).toBeLessThan(losses[0] - 0.1)
    expect(await gpt.state().get('blocks.0.attention.qkv.weight')!.toFloat64()).toEqual(frozen)
  }
})

test('bad settings are refused', () => {
  expect(() => addLoRA(model(), { rank: 0, targets: ['q'] })).toThrow(/rank must be a whole number above 0, got 0/)
  expect(() => addLoRA(model(), { rank: 2, targets: ['c_attn'] })).toThrow(/none of the targets c_attn/)
  expect(() => lora.create({ targets: 'q+w' }).adapt!(model())).toThrow(expect.objectContaining({ code: 'ERR_OPTION', message: "lora: targets has 'w'" }))
})
