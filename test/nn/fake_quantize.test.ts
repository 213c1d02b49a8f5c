// Fake quantisation and LSQ against PyTorch and the published example; LSQ+, PACT and steps that follow the error against finite
// differences; the integer product has the bits of the grid's.
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { fakeQuantize, firstStep, lsq, pact, quantizeTo, signedGrid, type Grid } from '../../lib/nn/fake_quantize'
import { integerLinear } from '../../lib/nn/integer_linear'
import { cast } from '../../lib/ops/cast'
import { add, mul } from '../../lib/ops/elementwise'
import { int8Matmul, quantizeRows } from '../../lib/ops/int8_matmul'
import { matmul } from '../../lib/ops/matmul'
import { randn } from '../../lib/ops/random'
import { sum } from '../../lib/ops/reductions'
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

/** Numbers of which some lie beyond the ends of the grids below, and factors of their results. */
const numbers = Array.from({ length: 40 }, (_, i) => 3 * Math.sin(7 * i) + 0.4)
const factors = numbers.map((_, i) => Math.cos(3 * i))

/** Result, and gradients of the leaves where that of the result is `factors`. */
async function gradients(run: (x: Tensor, ...leaves: Tensor[]) => Tensor, leaves: number[]) {
  const x = setRequiresGrad(tensor(numbers))
  const others = leaves.map((value) => setRequiresGrad(tensor([value])))
  let out: Promise<Float64Array>
  scope(() => {
    const y = run(x, ...others)
    out = y.toFloat64()
    backward(y, tensor(factors))
  })
  return { out: await out!, x: await x.grad!.toFloat64(), leaves: await Promise.all(others.map(async ({ grad }) => (await grad!.toFloat64())[0])) }
}

/** Central differences of f in each of its arguments. */
const slopes = (f: (...at: number[]) => number, at: number[]) =>
  at.map((_, k) => {
    const moved = (h: number) => f(...at.map((value, i) => (i === k ? value + h : value)))
    return (moved(1e-6) - moved(-1e-6)) / 2e-6
  })
const even = (u: number) => (Math.abs(u % 1) === 0.5 ? 2 * Math.round(u / 2) : Math.round(u))
const within = (u: number, { low, high }: Grid) => Math.min(high, Math.max(low, u))

test('LSQ+: a trained offset; gradients are finite differences with what rounding moves held, times 1 / sqrt(n high)', async () => {
  const grid = signedGrid(3, false)
  const [step, offset] = [0.61, 0.23]
  const found = await gradients((x, s, b) => lsq(x, s, grid, { offset: b }), [step, offset])
  close(found.out, Float64Array.from(numbers, (v) => step * even(within((v - offset) / step, grid)) + offset))
  const moved = numbers.map((v) => (v - offset) / step).map((u) => even(within(u, grid)) - within(u, grid))
  const total = (x: number[], s: number, b: number) =>
    x.reduce((sum, v, i) => sum + factors[i] * (s * (within((v - b) / s, grid) + moved[i]) + b), 0)
  const g = 1 / Math.sqrt(numbers.length * grid.high)
  const wanted = slopes((s, b) => total(numbers, s, b), [step, offset])
  found.leaves.forEach((value, k) => expect(value).toBeCloseTo(g * wanted[k], 5))
  const ofX = slopes((...x) => total(x, step, offset), numbers)
  found.x.forEach((value, i) => expect(value).toBeCloseTo(ofX[i], 5))
  expect(found.x.filter((value) => value === 0).length).toBeGreaterThan(5)
  // With an offset of 0 it is LSQ.
  const [plain, zero] = [await gradients((x, s) => lsq(x, s, grid), [step]), await gradients((x, s, b) => lsq(x, s, grid, { offset: b }), [step, 0])]
  expect([zero.out, zero.x, zero.leaves[0]]).toEqual([plain.out, plain.x, plain.leaves[0]])
})

test('steps and offsets that follow the error: the gradient of the mean squared error by finite differences, whatever that of the loss', async () => {
  const grid = signedGrid(3, false)
  const [step, offset] = [0.61, 0.23]
  const found = await gradients((x, s, b) => lsq(x, s, grid, { offset: b, errorWeight: 8 }), [step, offset])
  const error = (s: number, b: number) => numbers.reduce((sum, v) => sum + (s * even(within((v - b) / s, grid)) + b - v) ** 2, 0) / numbers.length
  slopes(error, [step, offset]).forEach((slope, k) => expect(found.leaves[k]).toBeCloseTo(8 * slope, 4))
  expect(found.x).toEqual((await gradients((x, s, b) => lsq(x, s, grid, { offset: b }), [step, offset])).x)
  // Rows with steps of their own.
  const rows = setRequiresGrad(tensor([0.61, 0.4], [2, 1]))
  scope(() => backward(sum(lsq(tensor(numbers, [2, 20]), rows, grid, { errorWeight: 1 }))))
  const each = [0.61, 0.4].map((s, r) => {
    const part = numbers.slice(20 * r, 20 * r + 20)
    return slopes((at) => part.reduce((total, v) => total + (at * even(within(v / at, grid)) - v) ** 2, 0) / 20, [s])[0]
  })
  close(await rows.grad!.toFloat64(), Float64Array.from(each), 1e-4)
})

test.each([['unsigned', { low: 0, high: 15 }, [0, 0.4, 1.1, 2, 2.6], [0, 0.4, 2 * (8 / 15), 2, 2]], ['signed', signedGrid(4), [-3, -2, -0.3, 1.9, 2], [-2, -2, -2 / 7, 2, 2]]] as const)(
  'PACT, %s: cut off at the clip, whose gradient is that of what reaches it; finite differences of clamp(x)',
  async (_, grid, few, expected) => {
    const clip = 2
    const y = await noGrad(() => pact(tensor([...few]), tensor([clip]), grid)).toFloat64()
    expected.forEach((wanted, i) => expect(y[i]).toBeCloseTo(wanted, 6))
    const found = await gradients((x, c) => pact(x, c, grid), [clip])
    const total = (x: number[], c: number) => x.reduce((sum, v, i) => sum + factors[i] * Math.min(c, Math.max(grid.low < 0 ? -c : 0, v)), 0)
    expect(found.leaves[0]).toBeCloseTo(slopes((c) => total(numbers, c), [clip])[0], 4)
    const ofX = slopes((...x) => total(x, clip), numbers)
    found.x.forEach((value, i) => expect(value).toBeCloseTo(ofX[i], 5))
    // 1 where x >= clip, the clip itself among them.
    const at = setRequiresGrad(tensor([clip]))
    scope(() => backward(sum(pact(tensor([...few]), at, grid))))
    expect(await at.grad!.toFloat64()).toEqual(Float64Array.of(grid.low < 0 ? 1 - 2 : 2))
  },
)

test('an integer product of inputs with an offset is the product of the numbers they stand for', async () => {
  const [x, w, bias] = [randn([5, 12], { generator: new Generator(1) }), randn([3, 12], { generator: new Generator(2) }), tensor([0.1, -2, 3])]
  const codes = { x: quantizeRows(x), w: quantizeRows(w) }
  const stands = ({ codes: c, scales }: typeof codes.x) => mul(cast(c, 'f32'), reshape(scales, [scales.size, 1]))
  const offset = tensor([0.7])
  const wanted = noGrad(() => add(matmul(add(stands(codes.x), offset), stands(codes.w), { transposeB: true }), bias))
  const found = noGrad(() => integerLinear(x, w, { ...codes, offset }, bias, null))
  close(await found.toFloat64(), await wanted.toFloat64(), 1e-5)
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
