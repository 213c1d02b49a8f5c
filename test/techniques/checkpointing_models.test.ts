// Checkpointing in every model, and how many bytes it saves: against the formulas of Korthikanti et al., arXiv 2205.05198.
import { backward } from '../../lib/autograd/backward'
import { headsFirst, tokensFirst, type AttentionKernel } from '../../lib/attention/kernels'
import { Bert } from '../../lib/models/bert'
import { EncoderDecoder } from '../../lib/models/encoder_decoder'
import { GPT } from '../../lib/models/gpt'
import { Llama } from '../../lib/models/llama'
import { ViT } from '../../lib/models/vit'
import type { Module } from '../../lib/nn/module'
import { dropout } from '../../lib/ops/dropout'
import { mulScalar } from '../../lib/ops/elementwise'
import { matmul } from '../../lib/ops/matmul'
import { randn } from '../../lib/ops/random'
import { softmax } from '../../lib/ops/softmax'
import { Checkpointing, type CheckpointingOptions } from '../../lib/techniques/checkpointing'
import { getDevice, setDefaultDevice } from '../../lib/tensor/device'
import { seed } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { digest } from '../support/digest'
import { collectGarbage } from '../support/garbage'

// Tests that want another device name it.
beforeAll(() => setDefaultDevice('cpu'))
beforeAll(collectGarbage)
afterEach(collectGarbage) // what is refused leaves a model

const ids = (rows: number, tokens: number, shift = 0, device = 'cpu') =>
  tensor(Int32Array.from({ length: rows * tokens }, (_, i) => (i * 7 + shift) % 13), [rows, tokens], { device })
// Enough of them that activations, not gradients, make the peak.
const rows = 6
const shape = { vocab: 13, context: 8, layers: 6, width: 16, heads: 2, dropout: 0.1 }

const models: Record<string, () => { model: Module<never, unknown>; loss: () => Tensor }> = {
  gpt() {
    const model = new GPT(shape)
    return { model: model as never, loss: () => model.loss(ids(rows, 8), ids(rows, 8, 3)) }
  },
  llama() {
    const model = new Llama(shape)
    return { model: model as never, loss: () => model.loss(ids(rows, 8), ids(rows, 8, 3)) }
  },
  bert() {
    const model = new Bert(shape)
    return { model: model as never, loss: () => model.loss(ids(rows, 8), ids(rows, 8, 3)) }
  },
  vit() {
    const { dropout, heads, width, layers } = shape
    const model = new ViT({ image: 8, patch: 2, channels: 1, classes: 5, layers, width, heads, dropout, gpsaLayers: 4 })
    const images = () => randn([rows, 1, 8, 8])
    return { model: model as never, loss: () => model.loss(images(), tensor(new Int32Array(rows).fill(3))) }
  },
  encoder_decoder() {
    const model = new EncoderDecoder({ ...shape, encoderLayers: 5, decoderLayers: 6 })
    return { model: model as never, loss: () => model.loss(ids(rows, 8), ids(rows, 8, 1), ids(rows, 8, 3)) }
  },
}

/** Two passes of gradients by a policy: their bits, and the peak above the weights. */
async function gradients(name: string, options: CheckpointingOptions | null) {
  seed(2)
  const device = getDevice('cpu')
  const { model, loss } = models[name]()
  const steps = options ? new Checkpointing(model, options) : null
  const before = (await device.synchronize()).liveBytes
  const begins = device.program().liveBytes // what budgets count from: also what failed in an earlier test
  const found = []
  let peak = 0
  try {
    for (let i = 0; i < 2; ++i) {
      device.resetPeak()
      steps?.beginStep()
      const value = scope(() => {
        const result = loss()
        backward(result)
        return result.detach()
      })
      steps?.endGradients()
      steps?.endStep()
      peak = (await device.synchronize()).peakBytes - before
      found.push(await value.item(), digest(await Promise.all(model.parameters().map((p) => p.grad?.data()))))
      value.dispose()
      for (const parameter of model.parameters()) parameter.zeroGrad()
    }
    return { found, peak, begins }
  } finally {
    model.dispose()
  }
}

test.each(Object.keys(models))('%s: gradients are bit for bit those without, by every policy', async (name) => {
  const plain = await gradients(name, null)
  for (const options of [{ policy: 'every', every: 1 }, { policy: 'every', every: 4 }, { policy: 'sqrt' }, { policy: 'selective' }] as const) {
    const found = await gradients(name, options)
    expect(found.found).toEqual(plain.found)
    // The results of norms are a sixth of a layer: the peak of so small a model may lie in its gradients.
    if (options.policy === 'selective') expect(found.peak).toBeLessThanOrEqual(plain.peak)
    else expect(found.peak).toBeLessThan(plain.peak)
  }
  const within = (budget: number) => gradients(name, { policy: 'optimal', budget })
  if (name === 'encoder_decoder') return expect(within(1)).rejects.toThrow('one chain of layers')
  const { message } = (await within(1).catch((error: unknown) => error)) as Error
  const least = Number(/least is (\d+)/.exec(message)![1]) - plain.begins
  const found = await within(plain.begins + least)
  expect(found.found).toEqual(plain.found)
  expect(found.peak).toBe(least)
  expect(least).toBeLessThan(0.9 * plain.peak)
})

/** Softmax attention that keeps its scores, as it was before FlashAttention. */
const scoresKept = (p: number): AttentionKernel => (q, k, v, { heads, scale }) => {
  const scores = mulScalar(matmul(headsFirst(q, heads), headsFirst(k, heads), { transposeB: true }), scale || 1 / Math.sqrt(q.shape[3]))
  return tokensFirst(matmul(dropout(softmax(scores), p), headsFirst(v, heads)))
}

/** Bytes that one more layer adds to what the tape holds after the forward pass. */
function heldByLayer({ s, b, h, a, p, flash, policy }: { s: number; b: number; h: number; a: number; p: number; flash: boolean; policy: CheckpointingOptions['policy'] }): number {
  const device = getDevice('meta')
  const held = [3, 4].map((layers) => {
    const model = new GPT({ vocab: 16, context: s, layers, width: h, heads: a, dropout: p }, { device })
    if (!flash) for (const { attention } of model.blocks) attention.kernel = scoresKept(p)
    const steps = new Checkpointing(model as never, { policy })
    steps.beginStep()
    const before = device.stats().liveBytes
    const bytes = scope(() => {
      const x = model.call(ids(b, s, 0, 'meta'))
      void x
      return device.stats().liveBytes - before
    })
    steps.endStep()
    model.dispose()
    return bytes
  })
  return held[1] - held[0]
}

const grid = [
  { s: 64, b: 1, h: 64, a: 2 }, { s: 128, b: 2, h: 128, a: 4 }, { s: 128, b: 2, h: 256, a: 8 }, { s: 32, b: 4, h: 96, a: 3 },
]
// f32. Dropout holds no mask: its draws are made again; the feed-forward block holds what goes into its
// activation and not what comes out. Attention that keeps its scores holds them after the softmax, and once
// more after dropout; FlashAttention holds a sum for each query. Selective gives up the results of both norms, and the scores.
test.each(grid)('bytes held by a layer, s $s b $b h $h a $a: the formula within 3 %%', ({ s, b, h, a }) => {
  const near = (found: number, formula: number) => expect(Math.abs(found / formula - 1)).toBeLessThan(0.03)
  const sbh = s * b * h
  const squares = a * s * s * b
  for (const p of [0, 0.1]) {
    near(heldByLayer({ s, b, h, a, p, flash: true, policy: 'none' }), 48 * sbh + 4 * a * s * b)
    near(heldByLayer({ s, b, h, a, p, flash: true, policy: 'selective' }), 40 * sbh + 4 * a * s * b)
    near(heldByLayer({ s, b, h, a, p, flash: true, policy: 'every' }), 4 * sbh)
    near(heldByLayer({ s, b, h, a, p, flash: false, policy: 'none' }), 48 * sbh + (p ? 8 : 4) * squares)
    near(heldByLayer({ s, b, h, a, p, flash: false, policy: 'selective' }), 40 * sbh)
  }
})

// The time is measured by `npm run bench -- memory`.
test('36 layers in 6 stretches: at most 2 * 6 / 36 of the bytes, and 4/3 of the FLOPs', async () => {
  const open = (policy: CheckpointingOptions['policy']) => {
    const device = getDevice('meta')
    const model = new GPT({ vocab: 16, context: 64, layers: 36, width: 32, heads: 2 }, { device })
    const steps = new Checkpointing(model as never, { policy })
    const step = async () => {
      const before = await device.synchronize()
      device.resetPeak()
      steps.beginStep()
      scope(() => backward(model.loss(ids(16, 64, 0, 'meta'), ids(16, 64, 3, 'meta'))))
      steps.endStep()
      const after = await device.synchronize()
      for (const parameter of model.parameters()) parameter.zeroGrad()
      return { peak: after.peakBytes - before.liveBytes, flops: after.flops - before.flops }
    }
    return { step, close: () => model.dispose() }
  }
  const measured = [open('none'), open('sqrt')]
  const [full, stretched] = [await measured[0].step(), await measured[1].step()]
  const layer = 48 * 16 * 64 * 32
  expect(full.peak).toBeGreaterThan(36 * layer)
  expect(stretched.peak).toBeLessThan((2 * 6 * full.peak) / 36 + layer)
  expect(stretched.flops / full.flops).toBeGreaterThan(1.25)
  expect(stretched.flops / full.flops).toBeLessThan(1.4)
  for (const { close } of measured) close()
}, 60_000)

test('making only scores again costs under 3 % of the FLOPs', async () => {
  const flops = async (policy: CheckpointingOptions['policy']) => {
    const device = getDevice('meta')
    const model = new GPT({ vocab: 16, context: 32, layers: 4, width: 96, heads: 3 }, { device })
    for (const { attention } of model.blocks) attention.kernel = scoresKept(0)
    const steps = new Checkpointing(model as never, { policy })
    const before = device.stats().flops
    steps.beginStep()
    scope(() => backward(model.loss(ids(4, 32, 0, 'meta'), ids(4, 32, 3, 'meta'))))
    steps.endStep()
    model.dispose()
    return device.stats().flops - before
  }
  const [plain, selective, every] = [await flops('none'), await flops('selective'), await flops('every')]
  expect(selective / plain).toBeLessThan(1.03)
  expect(every / plain).toBeGreaterThan(1.3)
})
