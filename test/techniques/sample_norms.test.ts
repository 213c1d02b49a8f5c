// Norms of gradients by sample against one backward pass a sample, in f64 to 1e-12, for whole transformers; their cost.
import { backward } from '../../lib/autograd/backward'
import { GPT, type GPTConfig } from '../../lib/models/gpt'
import { crossEntropy } from '../../lib/ops/cross_entropy'
import { sum } from '../../lib/ops/reductions'
import { square } from '../../lib/ops/elementwise'
import { sampleGradientNorms } from '../../lib/techniques/sample_norms'
import { getDevice } from '../../lib/tensor/device'
import { Generator, hostRandom } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { setRequiresGrad, tensor } from '../../lib/tensor/tensor'

const base: GPTConfig = { vocab: 13, context: 12, layers: 2, width: 16, heads: 2 }

function data(rows: number, tokens: number, vocab: number) {
  const random = hostRandom({ seed: 2, offset: 0 })
  const draw = () => Int32Array.from({ length: rows * tokens }, () => Math.floor(random.uniform() * vocab))
  const [inputs, targets] = [draw(), draw()]
  targets.forEach((_, i) => {
    if (i % 7 === 0) targets[i] = -1
  })
  return { inputs, targets }
}

const variants: [string, Partial<GPTConfig>][] = [
  ['tied head, learned positions, GELU', {}],
  ['its own head, RMS norm, SwiGLU, rotary, no biases', { tiedHead: false, norm: 'rms_norm', activation: 'swiglu', positions: 'rotary', bias: false }],
  ['scaled embeddings, grouped queries, ReLU, short rows', { scaleEmbeddings: true, kvHeads: 1, activation: 'relu', context: 3 }],
]

test.each(variants)('%s', async (_, config) => {
  const model = new GPT({ ...base, ...config }, { dtype: 'f64', generator: new Generator(5) })
  const rows = 4
  const tokens = model.config.context
  const { inputs, targets } = data(rows, tokens, base.vocab)
  const loss = (first: number, count: number) => {
    const cut = (values: Int32Array) => tensor(values.slice(first * tokens, (first + count) * tokens), [count, tokens])
    return crossEntropy(model.logits(cut(inputs)), cut(targets), { reduction: 'sum' })
  }
  const norms = await scope(() => sampleGradientNorms(loss(0, rows), rows)).toFloat64()
  expect(model.parameters().every(({ grad }) => grad === null)).toBe(true)
  for (let row = 0; row < rows; ++row) {
    scope(() => backward(loss(row, 1)))
    let squares = 0
    for (const parameter of model.parameters()) {
      squares += (await parameter.grad!.toFloat64()).reduce((s, x) => s + x * x, 0)
      parameter.zeroGrad()
    }
    expect(Math.abs(norms[row] / Math.sqrt(squares) - 1)).toBeLessThan(1e-12)
  }
  // Together with the gradients, those are the ones of backward().
  scope(() => sampleGradientNorms(loss(0, rows), rows, { gradients: true }))
  const both = await Promise.all(model.parameters().map(({ grad }) => grad!.toFloat64()))
  for (const parameter of model.parameters()) parameter.zeroGrad()
  scope(() => backward(loss(0, rows)))
  const plain = await Promise.all(model.parameters().map(({ grad }) => grad!.toFloat64()))
  expect(both).toEqual(plain)
  model.dispose()
})

test('at 128 tokens and width 256 the norms add at most 40 % to the arithmetic of a training step', async () => {
  const model = new GPT({ ...base, vocab: 256, context: 128, layers: 2, width: 256, heads: 4 }, { generator: new Generator(5) })
  const { inputs, targets } = data(4, 128, 256)
  const device = getDevice()
  const flops = async (run: () => void) => {
    const before = (await device.synchronize()).flops
    scope(run)
    for (const parameter of model.parameters()) parameter.zeroGrad()
    return (await device.synchronize()).flops - before
  }
  const loss = () => crossEntropy(model.logits(tensor(inputs, [4, 128])), tensor(targets, [4, 128]), { reduction: 'sum' })
  const plain = await flops(() => backward(loss()))
  const both = await flops(() => void sampleGradientNorms(loss(), 4, { gradients: true }))
  expect(both / plain).toBeLessThan(1.4)
  model.dispose()
})

test('a layer of another kind is named', () => {
  const scale = setRequiresGrad(tensor([2, 3]))
  expect(() => scope(() => sampleGradientNorms(sum(square(scale)), 2))).toThrow(
    expect.objectContaining({ code: 'ERR_ARGUMENT', message: expect.stringContaining('square') }),
  )
})
