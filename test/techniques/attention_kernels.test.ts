// Techniques that replace attention: window, block-sparse, CSR lists, linear, int8 and FAVOR+, each against what it should equal;
// generation with and without the cache; off is off; exact resume.
import { noGrad } from '../../lib/autograd/tape'
import { generate } from '../../lib/models/generate'
import { GPT } from '../../lib/models/gpt'
import { attention } from '../../lib/ops/attention'
import { randn } from '../../lib/ops/random'
import { blockSparse } from '../../lib/techniques/block_sparse'
import { csrAttention } from '../../lib/techniques/csr_attention'
import { favor } from '../../lib/techniques/favor'
import { int8Attention, int8Kernel, roundToInt8 } from '../../lib/techniques/int8_attention'
import { linearAttention, linearKernel } from '../../lib/techniques/linear_attention'
import { slidingWindow } from '../../lib/techniques/sliding_window'
import { Generator, seed } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { composedLinear, eluFeatures } from '../support/composed_features'
import { logitsOf, resumedRun, shortRun } from '../support/depth'
import { distance } from '../support/statistics'
import { tinyConfig } from '../support/tiny_gpt'

const makers = {
  sliding_window: () => slidingWindow.create({ window: 5 }),
  local: () => blockSparse.create({ window: 5, block: '16' }),
  strided: () => blockSparse.create({ pattern: 'strided', window: 4, block: '16' }),
  fixed: () => blockSparse.create({ pattern: 'fixed', window: 8, summary: 2, block: '16' }),
  longformer: () => blockSparse.create({ pattern: 'longformer', window: 4, block: '16' }),
  bigbird: () => blockSparse.create({ pattern: 'bigbird', random: 1, block: '16' }),
  csr: () => csrAttention.create({ window: 4, by: 'list' }),
  csr_by_forecast: () => csrAttention.create({ pattern: 'strided', window: 4, block: '16' }),
  linear: () => linearAttention.create(),
  int8: () => int8Attention.create(),
  favor: () => favor.create({ features: 32, redraw: 2 }),
}

test.each(Object.entries(makers))('%s trains and resumes exactly', async (_, make) => {
  const losses = await shortRun(make(), 2)
  expect(losses[5]).toBeLessThan(losses[0])
  expect(await resumedRun(make, 2, 6, 3)).toEqual(losses)
})

test('a window of all tokens is the run without it, window=0 bit for bit', async () => {
  const plain = await shortRun(null, 2)
  expect(await shortRun(slidingWindow.create({ window: 0 }), 2)).toEqual(plain)
  const whole = await shortRun(slidingWindow.create({ window: 16 }), 2)
  for (const [i, loss] of whole.entries()) expect(loss).toBeCloseTo(plain[i], 5)
})

test('local blocks and local pairs are a sliding window', async () => {
  const results: Float64Array[] = []
  for (const make of [makers.sliding_window, makers.local, () => csrAttention.create({ pattern: 'local', window: 5, by: 'list' })]) {
    seed(1)
    const model = new GPT(tinyConfig)
    make().adapt!(model as never)
    results.push(await logitsOf(model))
    model.dispose()
  }
  for (const other of results.slice(1)) expect(results[0].reduce((most, x, i) => Math.max(most, Math.abs(x - other[i])), 0)).toBeLessThan(1e-5)
})

test('csr_attention takes packed samples, and says which way it chose and why', async () => {
  seed(1)
  const model = new GPT(tinyConfig)
  const technique = csrAttention.create({ pattern: 'local', window: 5 })
  technique.adapt!(model as never)
  const ids = tensor(Int32Array.from({ length: 16 }, (_, i) => i), [1, 16])
  const segments = tensor(Int32Array.from({ length: 16 }, (_, i) => Math.floor(i / 8)), [1, 16])
  const [packed, alone] = await Promise.all(
    [scope(() => noGrad(() => model.logits(ids, { segments }))), scope(() => noGrad(() => model.logits(ids)))].map((x) => x.toFloat64()),
  )
  const half = packed.length / 2
  const apart = (from: number, to: number) => packed.slice(from, to).reduce((most, x, i) => Math.max(most, Math.abs(x - alone[from + i])), 0)
  expect(apart(0, half)).toBeLessThan(1e-5)
  expect(apart(half, 2 * half)).toBeGreaterThan(1e-3)
  const [line, ...more] = await technique.summary!()
  expect(more).toEqual([])
  expect(line).toMatch(/csr_attention: .*(csr|block_sparse|dense) on (cpu|cuda:0) for .* of the pairs.* a call/)
  model.dispose()
})

test.each(['sliding_window', 'local', 'csr', 'linear', 'int8', 'favor'] as const)('%s generates the same with and without the cache', async (name) => {
  seed(1)
  const model = new GPT({ ...tinyConfig, context: 32 })
  makers[name]().adapt!(model as never)
  const take = async (useCache: boolean) => {
    const out: number[] = []
    for await (const id of generate(model, [1, 2, 3, 4, 5], { maxTokens: 8, temperature: 0, useCache })) out.push(id)
    return out
  }
  expect(await take(true)).toEqual(await take(false))
  model.dispose()
})

test('int8: at most half a step off, zeros stay, attention close to that without', async () => {
  const x = randn([1, 6, 2, 16], { generator: new Generator(3) })
  const [before, after] = [await x.toFloat64(), await scope(() => noGrad(() => roundToInt8(x))).toFloat64()]
  for (let row = 0; row < 12; ++row) {
    const step = Math.max(...Array.from(before.slice(row * 16, row * 16 + 16), Math.abs)) / 127
    for (let c = row * 16; c < row * 16 + 16; ++c) {
      expect(Math.abs(before[c] - after[c])).toBeLessThan(step * 0.5001)
      expect(Math.abs(after[c] / step - Math.round(after[c] / step))).toBeLessThan(1e-3)
    }
  }
  expect(await roundToInt8(tensor([0, 0], [1, 2])).data()).toEqual(new Float32Array(2))
  const options = { heads: 2, causal: true }
  expect(await distance(int8Kernel(x, x, x, options), attention(x, x, x, options))).toBeLessThan(0.05)
})

test('features of linear attention are elu + 1', async () => {
  const values = await eluFeatures(tensor([-2, 0, 3])).toFloat64()
  expect(values[0]).toBeCloseTo(Math.exp(-2), 6)
  expect([values[1], values[2]]).toEqual([1, 4])
  const q = randn([1, 7, 2, 8], { generator: new Generator(3) })
  const options = { heads: 2, causal: true }
  expect(await distance(linearKernel(q, q, q, options), composedLinear(q, q, q, options))).toBeLessThan(1e-6)
})

test('what a kernel cannot do is refused', () => {
  const model = new GPT({ ...tinyConfig, dropout: 0.1 })
  linearAttention.create().adapt!(model as never)
  model.train()
  const ids = tensor(new Int32Array(16), [1, 16])
  expect(() => scope(() => model.logits(ids))).toThrow(expect.objectContaining({ code: 'ERR_OPTION', message: 'linear_attention: it has no dropout' }))
  model.dispose()
})
