// GPSA: the published positional weights in one and two dimensions, its two limits, and that it is a convolution at first.
import { noGrad } from '../../lib/autograd/tape'
import { convitEntry } from '../../lib/init/convit'
import { fill } from '../../lib/init/model_initializer'
import { Attention } from '../../lib/nn/attention'
import { KeyValueCache } from '../../lib/nn/key_value_cache'
import { headOffsets, PositionalAttention } from '../../lib/nn/positional_attention'
import { full } from '../../lib/ops/creation'
import { randn } from '../../lib/ops/random'
import { concat } from '../../lib/ops/concat'
import { slice } from '../../lib/ops/slice'
import { Generator } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { generate } from '../../lib/models/generate'
import { finalLoss, markovModel, markovTrainer, train } from '../support/markov'
import { distance } from '../support/statistics'

const run = (f: () => Tensor) => scope(() => noGrad(f))
const setMixture = (module: PositionalAttention, value: number) =>
  fill(module.mixture, (shape, options) => full(shape, value, options), new Generator())

/** Positional weights of one head from an inner query, by distance from `centre`. */
async function row(heads: number, head: number, locality: number, distances: number[]): Promise<number[]> {
  const tokens = 21
  const module = new PositionalAttention(heads, { heads, causal: false, locality })
  const weights = await run(() => module.positionWeights(tokens, tokens)).toFloat64()
  module.dispose()
  return distances.map((d) => weights[(head * tokens + 10) * tokens + 10 + d])
}

test('weights of an inner row, text', async () => {
  const near = (seen: number[], wanted: number[]) => seen.forEach((x, i) => expect(Math.abs(x - wanted[i])).toBeLessThan(1e-4))
  near(await row(1, 0, 1, [0, 1, -1, 2]), [0.5641, 0.2075, 0.2075, 0.0103])
  near(await row(1, 0, 2, [0, 1]), [0.7866, 0.1065])
  near(await row(1, 0, 5, [0]), [0.9867])
  // Two heads look half a token to either side.
  near(await row(2, 0, 1, [0, -1, 1, -2]), [0.4394, 0.4394, 0.0595, 0.0595])
  // Nine heads: head 0 looks four tokens back.
  near(await row(9, 0, 1, [-4, -3]), [0.5641, 0.2075])
})

test('weights in two dimensions: a bump on the offset of each head; surplus heads have none', async () => {
  const [rows, columns] = [7, 9]
  const module = new PositionalAttention(10, { heads: 10, causal: false, grid: [rows, columns], locality: 5 })
  const weights = await run(() => module.positionWeights(63, 63)).toFloat64()
  const query = 3 * columns + 4
  const offsets = headOffsets(10, false, true)
  expect(offsets.slice(0, 3)).toEqual([[-1, -1], [0, -1], [1, -1]])
  for (let h = 0; h < 9; ++h) {
    const [dx, dy] = offsets[h]!
    expect(weights[(h * 63 + query) * 63 + (3 + dy) * columns + 4 + dx]).toBeGreaterThan(0.97)
  }
  expect(offsets[9]).toBeNull()
  const surplus = Array.from(weights.slice((9 * 63 + query) * 63, (9 * 63 + query + 1) * 63))
  expect(Math.max(...surplus)).toBeLessThan(0.5)
  module.dispose()
})

test('mixtures of -30 and 30 are attention by content and by position alone', async () => {
  const [width, heads, tokens] = [32, 4, 12]
  const gpsa = new PositionalAttention(width, { heads })
  const plain = new Attention(width, { heads })
  plain.loadState(new Map([...gpsa.state()].filter(([name]) => /qkv|out/.test(name))))
  const x = randn([2, tokens, width])
  setMixture(gpsa, -30)
  expect(await distance(run(() => gpsa.call(x)), run(() => plain.call(x)))).toBeLessThan(1e-6)
  setMixture(gpsa, 30)
  // Queries and keys do not matter: with other ones the result stays.
  const before = run(() => gpsa.call(x))
  fill(gpsa.qkv.weight, (shape, options) => {
    const values = gpsa.qkv.weight.tensor
    return run(() => {
      const changed = randn(shape, options)
      const kept = slice(values, [2 * width, 0], [3 * width, width])
      return concat([slice(changed, [0, 0], [2 * width, width]), kept])
    })
  }, new Generator(2))
  expect(await distance(run(() => gpsa.call(x)), before)).toBeLessThan(1e-6)
  gpsa.dispose()
  plain.dispose()
})

test('a causal head of high locality copies the value of the token it looks at', async () => {
  const model = markovModel({ layers: 1 }, convitEntry.create({ locality: 30 }))
  const attention = model.blocks[0].attention as PositionalAttention
  setMixture(attention, 30)
  fill(attention.out.weight, (shape) => tensor(Array.from({ length: 64 * 64 }, (_, i) => (i % 65 === 0 ? 1 : 0)), shape), new Generator())
  const x = randn([1, 10, 64])
  const [from, to] = [await x.toFloat64(), await run(() => attention.call(x)).toFloat64()]
  for (let i = 4; i < 10; ++i) {
    for (let c = 0; c < 64; ++c) expect(to[i * 64 + c]).toBeCloseTo(from[(i - Math.floor(c / 16)) * 64 + c], 4)
  }
  model.dispose()
})

test('with a cache, with segments, and token by token: the same numbers', async () => {
  const module = new PositionalAttention(32, { heads: 4 })
  const x = randn([1, 9, 32])
  const whole = run(() => module.call(x))
  using cache = new KeyValueCache(9)
  for (const [from, to] of [[0, 4], [4, 5], [5, 9]]) {
    const part = run(() => module.call(slice(x, [0, from, 0], [1, to, 32]), { cache }))
    expect(await distance(part, run(() => slice(whole, [0, from, 0], [1, to, 32])))).toBeLessThan(1e-6)
  }
  const segments = tensor([0, 0, 0, 0, 1, 1, 1, 1, 1], [1, 9], { dtype: 'i32' })
  const packed = run(() => module.call(x, { segments }))
  const alone = run(() => module.call(slice(x, [0, 4, 0], [1, 9, 32])))
  expect(await distance(run(() => slice(packed, [0, 4, 0], [1, 9, 32])), alone)).toBeLessThan(1e-6)
  module.dispose()
})

test('locality of the heads, as it is logged', async () => {
  const model = markovModel({ layers: 1 }, convitEntry.create())
  const { gate, distance: far } = await (model.blocks[0].attention as PositionalAttention).locality(randn([2, 32, 64]))
  for (const g of gate) expect(g).toBeCloseTo(0.7311, 4)
  // Head h looks h tokens back with most of its weight.
  for (let h = 1; h < 4; ++h) expect(far[h]).toBeGreaterThan(far[h - 1])
  model.dispose()
})

test('text comes out of it, with and without the cache alike', async () => {
  const model = markovModel({ layers: 2 }, convitEntry.create({ plain_layers: 1 }))
  expect(model.blocks.map((block) => block.attention instanceof PositionalAttention)).toEqual([true, false])
  const take = async (useCache: boolean) => {
    const out: number[] = []
    for await (const id of generate(model, [1, 2, 3], { maxTokens: 8, temperature: 0, useCache })) out.push(id)
    return out
  }
  expect(await take(true)).toEqual(await take(false))
  model.dispose()
})

test('on M2 four causal layers learn at least 0.5 more in 200 steps than with learned positions alone', async () => {
  const after = async (gpsa: boolean) => {
    const model = gpsa ? markovModel({}, convitEntry.create()) : markovModel()
    const losses = await train(markovTrainer(model, { steps: 200 }))
    model.dispose()
    return finalLoss(losses)
  }
  const gpsa = await after(true)
  expect(gpsa).toBeLessThan(1.3)
  expect(gpsa).toBeLessThan((await after(false)) - 0.5)
}, 300_000)
