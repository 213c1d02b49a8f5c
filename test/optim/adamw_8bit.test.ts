// 8-bit AdamW: the code books, their errors, what stays in f32, bytes, training beside AdamW, resume of u8 state.
import { AdamW } from '../../lib/optim/adamw'
import { AdamW8bit, dequantizeBlocks, quantizeBlocks } from '../../lib/optim/adamw_8bit'
import { decayGroups } from '../../lib/optim/optimizer'
import { Parameter } from '../../lib/nn/parameter'
import { hostRandom } from '../../lib/tensor/random'
import { keep } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { finalLoss, markovModel, markovTrainer, train } from '../support/markov'
import { expectContract } from '../support/optimizers'

async function codeBook(withSign: boolean): Promise<number[]> {
  const codes = tensor(Uint8Array.from({ length: 256 }, (_, i) => i), [256])
  return Array.from(await dequantizeBlocks(codes, tensor([1]), { withSign }).toFloat32())
}

test('the signed book: 256 values from -0.99296875 to 1, the smallest positive one 5.5e-7', async () => {
  const book = await codeBook(true)
  expect(new Set(book).size).toBe(256)
  expect(book).toEqual([...book].sort((a, b) => a - b))
  expect(book[0]).toBeCloseTo(-0.99296875, 7)
  expect(book[255]).toBe(1)
  expect(Math.min(...book.filter((x) => x > 0)) / 5.5e-7).toBeCloseTo(1, 6)
})

test('the unsigned book: 2, 4, ... 128 values a decade, the smallest 3.25e-7', async () => {
  const book = await codeBook(false)
  expect(new Set(book).size).toBe(256)
  expect(book[0]).toBe(0)
  expect(book[1] / 3.25e-7).toBeCloseTo(1, 6)
  const counts = Array.from({ length: 7 }, (_, i) => book.filter((x) => x < 10 ** -i && x >= 10 ** (-i - 1) * 0.9999999).length)
  expect(counts).toEqual([128, 64, 32, 16, 8, 4, 2])
})

test.each([[256, 0.0108], [2048, 0.0125]])('normal numbers in blocks of %i come back with an RMS error of %d', async (block, expected) => {
  const random = hostRandom({ seed: 5, offset: 1 })
  const x = Float32Array.from({ length: 2 ** 18 }, () => random.normal())
  const { codes, scales } = quantizeBlocks(tensor(x), { block })
  expect(codes.dtype).toBe('u8')
  const y = await dequantizeBlocks(codes, scales, { block }).toFloat32()
  const error = Math.sqrt(x.reduce((s, v, i) => s + (v - y[i]) ** 2, 0) / x.reduce((s, v) => s + v * v, 0))
  expect(Math.abs(error / expected - 1)).toBeLessThan(0.03)
})

test('log-normal second moments (sigma 3): 1.5 % become 0, against 76 % with a linear code', async () => {
  const random = hostRandom({ seed: 6, offset: 1 })
  const v = Float32Array.from({ length: 2 ** 18 }, () => Math.exp(3 * random.normal()))
  const { codes, scales } = quantizeBlocks(tensor(v), { withSign: false })
  const back = await dequantizeBlocks(codes, scales, { withSign: false }).toFloat32()
  const largest = await scales.toFloat32()
  const zeros = back.filter((x) => x === 0).length / v.length
  const linear = v.filter((x, i) => Math.round((255 * x) / largest[i >> 8]) === 0).length / v.length
  expect(zeros).toBeGreaterThan(0.01)
  expect(zeros).toBeLessThan(0.02)
  expect(Math.abs(linear - 0.76)).toBeLessThan(0.03)
})

test('2 + 8/256 bytes a parameter; small tensors and embeddings keep f32 moments', () => {
  const shapes = { 'mlp.weight': [256, 100], 'norm.weight': [256], 'token_embedding.weight': [100, 256] }
  const parameters = new Map(Object.entries(shapes).map(([name, shape]) => [name, new Parameter(tensor(new Float32Array(shape[0] * (shape[1] ?? 1)).fill(1), shape))]))
  const optimizer = new AdamW8bit([{ parameters }])
  for (const { tensor: t } of parameters.values()) t.grad = keep(tensor(new Float32Array(t.size).fill(1), t.shape))
  optimizer.step(0.1)
  const bytes = (name: string) =>
    [...optimizer.state().tensors].filter(([key]) => key.endsWith('.' + name)).reduce((n, [, { size, dtype }]) => n + size * (dtype === 'u8' ? 1 : 4), 0)
  expect(bytes('mlp.weight')).toBe(25600 * (2 + 8 / 256))
  expect(bytes('norm.weight')).toBe(256 * 8)
  expect(bytes('token_embedding.weight')).toBe(25600 * 8)
  optimizer.dispose()
})

test('an element with a gradient that is not finite keeps its value and its moments', async () => {
  const parameter = new Parameter(tensor(new Float32Array(512).fill(1)))
  const optimizer = new AdamW8bit([{ parameters: new Map([['p', parameter]]) }], { smallest: 0 })
  const grad = new Float32Array(512).fill(0.5)
  grad[3] = NaN
  grad[7] = Infinity
  parameter.tensor.grad = keep(tensor(grad))
  optimizer.step(0.1)
  const after = await parameter.tensor.toFloat32()
  expect([after[3], after[7]]).toEqual([1, 1])
  expect(after[0]).toBeCloseTo(0.9, 5)
  optimizer.dispose()
  parameter.dispose()
})

test('M2, 4 layers, 400 steps, lr 1e-3: the loss is within 2 % of that of AdamW', async () => {
  const losses = []
  for (const Kind of [AdamW, AdamW8bit]) {
    const model = markovModel()
    const optimizer = new Kind(decayGroups(model.namedParameters(), 0), { beta2: 0.98 })
    losses.push(finalLoss(await train(markovTrainer(model, { steps: 400, optimizer }))))
    optimizer.dispose()
    model.dispose()
  }
  expect(Math.abs(losses[1] / losses[0] - 1)).toBeLessThan(0.02)
}, 120_000)

test('skips, clips, copies and resumes exactly, with u8 state', () => expectContract((groups) => new AdamW8bit(groups, { smallest: 100 })))

test('bad blocks are refused', () => {
  expect(() => new AdamW8bit([], { block: 0 })).toThrow(expect.objectContaining({ code: 'ERR_OPTION', message: expect.stringContaining('block') }))
  expect(() => quantizeBlocks(tensor([1], null, { dtype: 'f64' }))).toThrow(expect.objectContaining({ code: 'ERR_DTYPE' }))
})
