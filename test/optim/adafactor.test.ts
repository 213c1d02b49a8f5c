// Adafactor: published trace, PyTorch's trajectory, exactness for rank one, the size of the state.
import { Adafactor, factored } from '../../lib/optim/adafactor'
import { Parameter } from '../../lib/nn/parameter'
import { zeros } from '../../lib/ops/creation'
import { mul } from '../../lib/ops/elementwise'
import { mean } from '../../lib/ops/reductions'
import { keep } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { expectContract, goldenError } from '../support/optimizers'

test('the published trace on a 2 x 2 matrix', async () => {
  const parameter = new Parameter(tensor([1, -2, 0.5, 0.25], [2, 2], { dtype: 'f64' }))
  const optimizer = new Adafactor([{ parameters: new Map([['p', parameter]]) }])
  const expected = [
    [0.9910732145, -1.9873756188, 0.4880234604, 0.2387084102],
    [1.0079002377, -1.9899083459, 0.4805564852, 0.2330889342],
  ]
  for (const [i, g] of [[0.1, -0.2, 0.3, 0.4], [-0.5, 0.05, 0.2, 0.1]].entries()) {
    parameter.tensor.grad = keep(tensor(g, [2, 2], { dtype: 'f64' }))
    optimizer.step(0.01)
    ;(await parameter.tensor.toFloat64()).forEach((x, k) => expect(x).toBeCloseTo(expected[i][k], 9))
  }
  optimizer.dispose()
  parameter.dispose()
})

test("PyTorch's trajectory", async () => {
  expect(await goldenError('adafactor', (parameters) => new Adafactor([{ parameters, weightDecay: 0.1 }]))).toBeLessThan(1e-13)
})

test('squares of rank one come back exactly', async () => {
  const [a, b] = [[1, 4, 9, 0.25], [2, 0.5, 3]]
  const squares = tensor(a.flatMap((x) => b.map((y) => x * y)), [4, 3], { dtype: 'f64' })
  const [rows, columns] = factored(mean(squares, -1), mean(squares, -2))
  const v = await mul(rows, columns).toFloat64()
  a.forEach((x, i) => b.forEach((y, j) => expect(Math.abs(v[i * 3 + j] / (x * y) - 1)).toBeLessThan(1e-15)))
})

test('rows and columns without a gradient stay as they are, in f32 too', async () => {
  const values = [1, 2, 3, 4]
  const parameter = new Parameter(tensor(values, [2, 2]))
  const optimizer = new Adafactor([{ parameters: new Map([['w', parameter]]), weightDecay: 0 }])
  parameter.tensor.grad = keep(tensor([0.1, 0, 0, 0], [2, 2]))
  optimizer.step(0.1)
  const after = await parameter.tensor.toFloat32()
  expect(after[0]).toBeLessThan(1)
  expect(Array.from(after.slice(1))).toEqual(values.slice(1))
  optimizer.dispose()
  parameter.dispose()
})

test('the state of 4096 x 4096 is 8192 numbers', () => {
  const on = { device: 'meta' }
  const parameter = new Parameter(zeros([4096, 4096], on))
  const optimizer = new Adafactor([{ parameters: new Map([['p', parameter]]) }])
  parameter.tensor.grad = keep(zeros([4096, 4096], on))
  optimizer.step(0.01)
  expect([...optimizer.state().tensors.values()].reduce((n, { size }) => n + size, 0)).toBe(8192)
  optimizer.dispose()
  parameter.dispose()
})

test('the state of 512 x 256 is 768 numbers; an update in root mean square is at most the threshold times the rate', async () => {
  const parameter = new Parameter(tensor(new Float32Array(512 * 256).fill(1), [512, 256]))
  const optimizer = new Adafactor([{ parameters: new Map([['p', parameter]]) }], { relative: false, threshold: 0.5 })
  parameter.tensor.grad = keep(tensor(Float32Array.from({ length: 512 * 256 }, (_, i) => Math.sin(i) ** 9), [512, 256]))
  optimizer.step(0.01)
  expect([...optimizer.state().tensors.values()].reduce((n, { size }) => n + size, 0)).toBe(512 + 256)
  const moved = (await parameter.tensor.toFloat64()).map((x) => (1 - x) / 0.01)
  expect(Math.sqrt(moved.reduce((s, x) => s + x * x, 0) / moved.length)).toBeLessThan(0.5 * (1 + 1e-4))
  optimizer.dispose()
  parameter.dispose()
})

test('skips, clips, copies and resumes exactly', () => expectContract((groups) => new Adafactor(groups)))
