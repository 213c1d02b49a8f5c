// What techniques promise about time, on a CPU: ratios of processor time beside the FLOPs that other tests count.
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { directionsLike, favorKernel, randomDirections } from '../../lib/attention/favor'
import { bigbird } from '../../lib/attention/patterns'
import { GPT, type GPTConfig } from '../../lib/models/gpt'
import { attention } from '../../lib/ops/attention'
import { blockLayout, blockSparseAttention } from '../../lib/ops/block_sparse_attention'
import { crossEntropy } from '../../lib/ops/cross_entropy'
import { randn } from '../../lib/ops/random'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import { Checkpointing } from '../../lib/techniques/checkpointing'
import { layerDrop } from '../../lib/techniques/layer_drop'
import { progressiveLayerDropping } from '../../lib/techniques/progressive_layer_dropping'
import { sampleGradientNorms } from '../../lib/techniques/sample_norms'
import { getDevice, setDefaultDevice } from '../../lib/tensor/device'
import { Generator, seed } from '../../lib/tensor/random'
import { keep, scope } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { expectTimeRatio } from '../support/processor_time'

// It is the CPU's time that is taken.
beforeAll(() => setDefaultDevice('cpu'))

const ids = (rows: number, tokens: number, vocab: number, shift = 0) =>
  tensor(Int32Array.from({ length: rows * tokens }, (_, i) => (i * 7 + shift) % vocab), [rows, tokens])

/** Whole training steps of a model, each over `rows` rows. */
function training(config: GPTConfig, rows: number, adapt: (model: GPT) => void = () => {}) {
  seed(3)
  const model = new GPT(config)
  adapt(model)
  model.train()
  const optimizer = new AdamW(decayGroups(model.namedParameters(), 0.1))
  const [inputs, targets] = [0, 3].map((shift) => keep(ids(rows, config.context, config.vocab, shift)))
  return {
    model,
    step() {
      optimizer.zeroGrad()
      scope(() => backward(model.loss(inputs, targets)))
      optimizer.step(1e-4)
    },
    dispose() {
      for (const each of [model, optimizer, inputs, targets]) each.dispose()
    },
  }
}

const times = (n: number, run: () => void) => () => {
  for (let i = 0; i < n; ++i) run()
}

const minutes = 600_000
const shape: GPTConfig = { vocab: 32, context: 128, layers: 12, width: 128, heads: 4 }

/** FLOPs of a program by those of another. */
async function flopsRatio(first: () => void, second: () => void): Promise<number> {
  const device = getDevice('cpu')
  const flops: number[] = []
  for (const run of [first, second]) {
    const before = (await device.synchronize()).flops
    scope(run)
    flops.push((await device.synchronize()).flops - before)
  }
  return flops[1] / flops[0]
}

test('LayerDrop with p = 0.5: steps of 8 layers take the time of steps of 4 layers, within 10 %', async () => {
  const half = training({ ...shape, layers: 4 }, 4)
  const dropped = training({ ...shape, layers: 8 }, 4, (model) => layerDrop.create({ p: 0.5 }).adapt!(model as never))
  await expectTimeRatio(times(25, half.step), times(25, dropped.step), [0.9, 1.1], 3)
  for (const each of [half, dropped]) each.dispose()
}, minutes)

test('progressive layer dropping, 12 layers at theta 0.5: steps take 20 to 27 % less', async () => {
  const whole = training(shape, 4)
  const dropped = training(shape, 4, (model) => {
    const technique = progressiveLayerDropping.create({ gamma: 100 })
    technique.setup!({ model: model as never, optimizer: null as never, parameters: model.namedParameters(), steps: 10, schedule: () => 1e-3, clip: 1, techniques: new Set<string>() })
    technique.step!(() => {}, { step: 5 } as never)
  })
  // 3.25 of 12 layers are left out on average, 27.1 %.
  await expectTimeRatio(times(40, whole.step), times(40, dropped.step), [1 - 0.271, 1 - 0.2], 3)
  for (const each of [whole, dropped]) each.dispose()
}, minutes)

test('36 layers in 6 stretches: 1.25 to 1.4 times the time', async () => {
  const make = (policy: 'none' | 'sqrt') => {
    const model = new GPT({ ...shape, layers: 36, width: 96, heads: 3 })
    const steps = new Checkpointing(model as never, { policy })
    const [inputs, targets] = [0, 3].map((shift) => keep(ids(4, 128, 32, shift)))
    return () => {
      steps.beginStep()
      scope(() => backward(model.loss(inputs, targets)))
      steps.endGradients()
      steps.endStep()
      for (const parameter of model.parameters()) parameter.zeroGrad()
    }
  }
  await expectTimeRatio(make('none'), make('sqrt'), [1.25, 1.4])
}, minutes)

test('half of the heads and units: the time of a forward pass falls in proportion', async () => {
  const make = (small: boolean) => {
    const model = new GPT({ vocab: 2, context: 128, layers: 4, width: 256, heads: 8 })
    if (small) {
      for (const block of model.blocks) {
        block.attention.keepHeads([0, 2, 4, 6])
        block.mlp.keepUnits(Array.from({ length: 512 }, (_, i) => i))
      }
    }
    const x = keep(ids(8, 128, 2))
    return () => noGrad(() => void model.call(x))
  }
  const [whole, shrunk] = [make(false), make(true)]
  const expected = await flopsRatio(whole, shrunk)
  await expectTimeRatio(whole, shrunk, [0.9 * expected, 1.1 * expected])
}, minutes)

test('norms of gradients by sample, at 128 tokens and width 256: at most 40 % of a training step', async () => {
  const model = new GPT({ vocab: 256, context: 128, layers: 4, width: 256, heads: 4 })
  const optimizer = new AdamW(decayGroups(model.namedParameters(), 0.1))
  const [x, y] = [0, 3].map((shift) => keep(ids(8, 128, 256, shift)))
  const step = (gradients: (loss: Tensor) => void) => () => {
    optimizer.zeroGrad()
    scope(() => gradients(crossEntropy(model.logits(x), y, { reduction: 'sum' })))
    optimizer.step(1e-5)
  }
  await expectTimeRatio(step((loss) => backward(loss)), step((loss) => void sampleGradientNorms(loss, 8, { gradients: true })), [1, 1.4])
}, minutes)

test('FAVOR+ of 8192 tokens takes 3.4 to 4.6 times as long as that of 2048', async () => {
  const directions = randomDirections(128, 64, { seed: 1, offset: 0 })
  const kernel = favorKernel((like) => directionsLike(like, directions, 128))
  const run = (tokens: number) => {
    const [q, k, v] = [1, 2, 3].map((from) => keep(randn([1, tokens, 4, 64], { generator: new Generator(from) })))
    return () => noGrad(() => void kernel(q, k, v, { heads: 4, causal: true }))
  }
  await expectTimeRatio(run(2048), run(8192), [3.4, 4.6])
}, minutes)

test('blocks of 64 at 8192 tokens are faster than dense attention by at least 0.6 / density', async () => {
  const n = 8192
  const layout = blockLayout(bigbird({ block: 64 }), { queries: n, keys: n, block: 64 })
  const [q, k, v] = [1, 2, 3].map((from) => keep(randn([1, n, 1, 64], { generator: new Generator(from) })))
  const dense = () => noGrad(() => void attention(q, k, v, { heads: 1 }))
  await expectTimeRatio(dense, () => noGrad(() => void blockSparseAttention(q, k, v, layout, { heads: 1 })), [0, layout.density / 0.6], 5)
  layout.dispose()
}, minutes)
