// Fake quantisation and LSQ against PyTorch and the published example; the integer product has the bits of the grid's.
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { fakeQuantize, firstStep, lsq, quantizeTo, signedGrid } from '../../lib/nn/fake_quantize'
import { cast } from '../../lib/ops/cast'
import { mul } from '../../lib/ops/elementwise'
import { int8Matmul, quantizeRows } from '../../lib/ops/int8_matmul'
import { matmul } from '../../lib/ops/matmul'
import { randn } from '../../lib/ops/random'
import { reshape } from '../../lib/ops/reshape'
import { Generator } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { setRequiresGrad, tensor, type Tensor } from '../../lib/tensor/tensor'
import { goldenTensors } from '../support/goldens'

const close = (own: Float64Array, wanted: Float64Array, error = 1e-6) => own.forEach((v, i) => expect(Math.abs(v - wanted[i])).toBeLessThanOrEqual(error * (1 + Math.abs(wanted[i]))))

test.each(['tensor', 'affine', 'channel', 'learned'])('%s: forward and backward as PyTorch has them', async (name) => {
  const goldens = await goldenTensors('quantisation')
  const read = (part: string, shape = goldens.shape(`${name}.${part}`)) => tensor(Float32Array.from(goldens.numbers(`${name}.${part}`)), shape)
  const x = setRequiresGrad(read('x'))
  const step = setRequiresGrad(read('scale', name === 'channel' ? [6, 1] : [1]))
  const grid = { tensor: signedGrid(8), affine: { low: 0, high: 255 }, channel: signedGrid(8), learned: signedGrid(4, false) }[name]!
  let out: Promise<Float64Array>
  scope(() => {
    const y = name === 'learned' ? lsq(x, step, grid) : fakeQuantize(x, step, grid, name === 'affine' ? read('zero') : null)
    out = y.toFloat64()
    backward(y, read('grad_out'))
  })
  close(await out!, goldens.numbers(`${name}.out`))
  const gradient = await x.grad!.toFloat64()
  if (name !== 'learned') return expect(gradient).toEqual(goldens.numbers(`${name}.grad.x`))
  // PyTorch's mask is of the rounded number, LSQ's of the number before: they differ within half a step beyond the ends.
  const numbers = goldens.numbers('learned.x')
  const s = goldens.numbers('learned.scale')[0]
  const between = (v: number) => (v / s > 7 && v / s < 7.5) || (v / s < -8 && v / s > -8.5)
  gradient.forEach((v, i) => between(numbers[i]) || expect(v).toBe(goldens.numbers('learned.grad.x')[i]))
  // Its gradient of the step, without the numbers between, times its factor of 0.25 against ours of 1 / sqrt(240 * 7).
  const upstream = goldens.numbers('learned.grad_out')
  const correction = numbers.reduce((sum, v, i) => sum + (between(v) ? upstream[i] * (v > 0 ? v / s : v / s) : 0), 0)
  const theirs = goldens.numbers('learned.grad.scale')[0] / 0.25 + correction
  expect((await step.grad!.toFloat64())[0] * Math.sqrt(240 * 7)).toBeCloseTo(theirs, 3)
})

test('LSQ: the published example of six numbers', async () => {
  const v = [-9, -3.3, 0.2, 1.6, 2.49, 11]
  const grid = signedGrid(4, false)
  const run = async (one: number[]) => {
    const x = setRequiresGrad(tensor(one, [one.length]))
    const step = setRequiresGrad(tensor([1], [1]))
    let out: Promise<Float64Array>
    scope(() => {
      const y = lsq(x, step, grid)
      out = y.toFloat64()
      backward(y, tensor(one.map(() => 1), [one.length]))
    })
    return { out: [...(await out!)], x: [...(await x.grad!.toFloat64())], step: (await step.grad!.toFloat64())[0] }
  }
  const all = await run(v)
  expect(all.out).toEqual([-8, -3, 0, 2, 2, 7])
  expect(all.x).toEqual([0, 1, 1, 1, 1, 0])
  const single = await Promise.all(v.map((one) => run([one])))
  ;[-8, 0.3, -0.2, 0.4, -0.49, 7].forEach((wanted, i) => expect(single[i].step * Math.sqrt(7)).toBeCloseTo(wanted, 5))
  expect(all.step).toBeCloseTo(-0.99 / Math.sqrt(42), 6)
  expect(all.step).toBeCloseTo(-0.1527603165, 6)
})

test('a first step is 2 mean |x| / sqrt(top)', async () => {
  const x = tensor([1, -2, 3, -4, 0, 8], [2, 3])
  expect(await firstStep(x, { low: -8, high: 7 }, false).toFloat64()).toEqual(Float64Array.of(Math.fround((2 * 3) / Math.sqrt(7))))
  close(await firstStep(x, { low: -8, high: 7 }, true).toFloat64(), Float64Array.of(4 / Math.sqrt(7), 8 / Math.sqrt(7)))
})

test('the product of numbers on grids has the bits of the integer product: a sum in i32 and one product in f32', async () => {
  const [x, w] = [1, 2].map((seed) => randn([24, 96], { generator: new Generator(seed) }))
  const rows = (t: Tensor) => {
    const { codes, scales } = quantizeRows(t)
    return { codes, scales, column: reshape(scales, [scales.size, 1]) }
  }
  const [a, b] = [rows(x), rows(w)]
  // On the grid, sums of codes up to 127 x 127 x 96 are exact in f32 too.
  const plain = noGrad(() => mul(matmul(cast(a.codes, 'f32'), cast(b.codes, 'f32'), { transposeB: true }), mul(a.column, reshape(b.scales, [1, 24]))))
  expect(await int8Matmul(a, b).toFloat64()).toEqual(await plain.toFloat64())
  const grid = signedGrid(8)
  for (const t of [{ x, ...a }, { x: w, ...b }]) {
    expect(await cast(quantizeTo(t.x, t.column, grid).codes, 'i8').data()).toEqual(await t.codes.data())
    expect(await fakeQuantize(t.x, t.column, grid).toFloat64()).toEqual(await mul(cast(t.codes, 'f32'), t.column).toFloat64())
  }
})
