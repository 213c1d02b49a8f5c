// Reductions over axes.
import { backward } from '../../lib/autograd/backward'
import * as ops from '../../lib/ops/reductions'
import type { OpName } from '../../lib/native/ops.gen'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { host, integers, jestOnly, opCase, uniform, type Draw, type HostTensor, type Rounding } from '../support/op_case'
import { unravel } from '../support/reference'

interface Attrs {
  axes: number[]
  keepdims: boolean
}
type Fold = (values: number[], r: Rounding) => number

/** f over the elements of each result, in row-major order. */
function folded(x: HostTensor, { axes, keepdims }: Attrs, r: Rounding, f: Fold): HostTensor {
  const gone = axes.map((axis) => (axis < 0 ? axis + x.shape.length : axis))
  const kept = x.shape.map((_, axis) => axis).filter((axis) => !gone.includes(axis))
  const groups = new Map<string, number[]>()
  const full = kept.map((axis) => x.shape[axis])
  const results = full.reduce((n, d) => n * d, 1)
  for (let i = 0; i < results; ++i) groups.set(unravel(i, full).join(), [])
  x.data.forEach((value, i) => {
    const index = unravel(i, x.shape)
    groups.get(kept.map((axis) => index[axis]).join())!.push(value)
  })
  const shape = keepdims ? x.shape.map((size, axis) => (gone.includes(axis) ? 1 : size)) : full
  return host(shape, [...groups.values()].map((values) => f(values, r)))
}

const add: Fold = (values, r) => values.reduce((sum, x) => r(sum + x), 0)
const average: Fold = (values, r) => r(add(values, r) / values.length)
const first = (better: (x: number, best: number) => boolean): Fold => (values) =>
  values.reduce((best, x, i) => (better(x, values[best]) ? i : best), 0)

interface Reduction {
  f: (x: Tensor, axes: number[], options: { keepdims: boolean }) => Tensor
  reference: Fold
  ops: OpName[]
  values?: Draw
  integers?: boolean
  index?: boolean
  empty?: boolean
}

// Normal numbers, far enough apart for finite differences of a maximum.
const apart: Draw = (random, i) => Math.round(random.normal() * 40) / 20 + (i % 97) * 3e-3 * 0.01 + (i % 13) * 0.003

const reductions: Record<string, Reduction> = {
  sum: { f: ops.sum, reference: add, ops: ['sum', 'broadcast_to'], integers: true, empty: true },
  mean: { f: ops.mean, reference: average, ops: ['mean'], empty: true },
  prod: {
    f: ops.prod,
    reference: (values, r) => values.reduce((product, x) => r(product * x), 1),
    ops: ['prod'],
    values: uniform(0.7, 1.4),
    integers: true,
    empty: true,
  },
  max: { f: ops.max, reference: (values) => Math.max(...values), ops: ['max'], integers: true, values: apart },
  min: { f: ops.min, reference: (values) => Math.min(...values), ops: ['min'], integers: true, values: apart },
  argmax: { f: ops.argmax, reference: first((x, y) => x > y), ops: ['argmax'], integers: true, index: true },
  argmin: { f: ops.argmin, reference: first((x, y) => x < y), ops: ['argmin'], integers: true, index: true },
  logSumExp: {
    f: ops.logSumExp,
    reference: (values, r) => {
      const top = Math.max(...values)
      return r(top + r(Math.log(add(values.map((x) => r(Math.exp(r(x - top)))), r))))
    },
    ops: ['log_sum_exp'],
    empty: true,
  },
}

const rarelyTwo: Draw = (random) => (random.uniform(0, 1) < 0.1 ? 2 : 1)

const layouts: [number[], number[]][] = [
  [[7, 33], [1]],
  [[7, 33], [0]],
  [[33], [0]],
  [[5, 3, 34], [0, 2]],
  [[5, 3, 34], [1]],
  [[2, 3, 4, 5, 3], [1, 3]],
  [[2, 3, 4, 5, 3], [-1, 0, 2]],
  [[3, 1, 4], [1]],
  [[], []],
  [[4, 3], []],
  [[0, 3], [1]],
]
const emptied: [number[], number[]][] = [[[3, 0], [1]], [[0, 3], [0]]]
const large: [string, number[], number[]][] = [
  ['rows', [2048, 512], [1]],
  ['columns', [2048, 512], [0]],
  ['all', [1024, 1024], [0, 1]],
  ['middle', [16, 128, 512], [1]],
  ['narrow', [65536, 8], [0]],
]

for (const [name, { f, reference, ops: native, values, integers: has, index, empty }] of Object.entries(reductions)) {
  const samples = [...layouts, ...(empty && name !== 'logSumExp' && name !== 'mean' ? emptied : [])].map(([shape, axes], i) => ({
    inputs: [{ shape, values }],
    attrs: { axes, keepdims: i % 2 === 0 },
  }))
  opCase<Attrs>({
    name,
    ops: native,
    run: ([x], { axes, keepdims }) => f(x, axes, { keepdims }),
    reference: ([x], attrs, r) => folded(x, attrs, r, reference),
    samples,
    outDTypes: index ? 'i64' : undefined,
    noGradient: index ? 'positions have none' : undefined,
    errorScale: 'tensor',
    // Gradients of 16-bit results are made of rounded results.
    gradTolerance: { f32: 1e-5, f16: 2e-2, bf16: 0.15 },
    bench: large.map(([label, shape, axes]) => ({
      label,
      inputs: [{ shape, values }],
      attrs: { axes, keepdims: false },
    })),
    errors: [
      {
        what: 'an axis that is not there',
        call: () => f(tensor([[1, 2]]), [2], { keepdims: false }),
        code: 'ERR_SHAPE',
        text: [native[0], 'axis 2 is out of range for shape [1, 2]'],
      },
      {
        what: 'an axis twice',
        call: () => f(tensor([[1, 2]]), [1, -1], { keepdims: false }),
        code: 'ERR_ARGUMENT',
        text: [native[0], 'axis -1 is named twice'],
      },
    ],
  })
  if (has) {
    opCase<Attrs>({
      name: `${name} of integers`,
      ops: [native[0]],
      run: ([x], { axes, keepdims }) => f(x, axes, { keepdims }),
      reference: ([x], attrs, r) => folded(x, attrs, r, reference),
      samples: layouts.map(([shape, axes]) => ({
        inputs: [{ shape, values: name === 'prod' ? rarelyTwo : integers(0, 100) }],
        attrs: { axes, keepdims: false },
      })),
      dtypes: ['i8', 'u8', 'i32', 'i64', ...(name === 'sum' || name === 'prod' ? (['bool'] as const) : [])],
      outDTypes: index || name === 'sum' || name === 'prod' ? 'i64' : undefined,
      noGradient: 'integers have none',
    })
  }
}

opCase<Attrs>({
  name: 'variance',
  ops: ['mean', 'sum'],
  run: ([x], { axes, keepdims }) => ops.variance(x, axes, { keepdims }),
  reference: ([x], attrs, r) =>
    folded(x, attrs, r, (values) => {
      const centre = r.store(average(values, r))
      const squares = values.map((value) => r.store(r(r.store(value - centre) ** 2)))
      return r(r.store(add(squares, r)) / (values.length - 1))
    }),
  samples: layouts.slice(0, 7).map(([shape, axes]) => ({ inputs: [shape], attrs: { axes, keepdims: false } })),
  errorScale: 'tensor',
  gradTolerance: { f16: 3e-2, bf16: 0.2 },
})

jestOnly(() => {
  const values = async (x: Tensor) => [...(await x.toFloat64())]

  test('all axes when none are named', async () => {
    expect(await ops.sum(tensor([[1, 2], [3, 4]])).item()).toBe(10)
    expect(await values(ops.mean(tensor([[1, 2], [3, 4]]), null, { keepdims: true }))).toEqual([2.5])
    expect(await values(ops.variance(tensor([1, 2, 3]), null, { correction: 0 }))).toEqual([Math.fround(2 / 3)])
  })

  test('sums of many f32 do not lose digits', async () => {
    const n = 1 << 22
    const one = Math.fround(0.1)
    const whole = await ops.sum(tensor(new Float32Array(n).fill(0.1))).item()
    const [column] = await values(ops.sum(tensor(new Float32Array(n).fill(0.1), [n / 2, 2]), 0))
    expect(Math.abs(whole / (n * one) - 1)).toBeLessThan(2 ** -23)
    expect(Math.abs(column / ((n / 2) * one) - 1)).toBeLessThan(2 ** -23)
  })

  // Rows of few columns are joined before they are added; what is left over comes one by one.
  test.each([[1001, 3], [515, 1], [77, 100], [5, 128], [4, 128], [9, 129], [2, 7]])('narrow columns: %d x %d', async (n, c) => {
    for (const dtype of ['f32', 'bf16', 'f64'] as const) {
      const numbers = Array.from({ length: 2 * n * c }, (_, i) => ((i * 37) % 61) - 30)
      const total = (k: number, from: number) => {
        let sum = 0
        for (let row = 0; row < n; ++row) sum += numbers[from + row * c + k]
        return sum
      }
      const wanted = [0, n * c].flatMap((from) => Array.from({ length: c }, (_, k) => total(k, from)))
      const stored = await tensor(wanted, null, { dtype }).toFloat64()
      expect(await ops.sum(tensor(numbers, [2, n, c], { dtype }), 1).toFloat64()).toEqual(stored)
    }
  })

  test('NaN, infinities and nothing', async () => {
    const x = tensor([[1, NaN, 3], [Infinity, 0, -Infinity]])
    expect(await values(ops.max(x, 1))).toEqual([NaN, Infinity])
    expect(await values(ops.min(x, 1))).toEqual([NaN, -Infinity])
    expect(await values(ops.argmax(x, 1))).toEqual([1, 0])
    expect(await values(ops.argmin(x, 1))).toEqual([1, 2])
    expect(await values(ops.logSumExp(x, 1))).toEqual([NaN, Infinity])
    expect(await values(ops.logSumExp(tensor([-Infinity, -Infinity])))).toEqual([-Infinity])
    expect(await values(ops.logSumExp(tensor([1000, 1000])))).toEqual([Math.fround(1000 + Math.log(2))])
    expect(await values(ops.sum(tensor([], [0])))).toEqual([0])
    expect(await values(ops.mean(tensor([], [0])))).toEqual([NaN])
    expect(await values(ops.logSumExp(tensor([], [0])))).toEqual([-Infinity])
    expect(() => ops.max(tensor([], [2, 0]), 1)).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }))
    expect(() => ops.mean(tensor(new Int32Array(2)))).toThrow(expect.objectContaining({ code: 'ERR_DTYPE' }))
  })

  test('gradients of prod with zeros, and of max with equal elements', async () => {
    const x = tensor([[2, 0, 3], [0, 0, 5], [2, 3, 4]], null, { requiresGrad: true })
    backward(ops.prod(x, 1), tensor([1, 1, 1]))
    expect(await values(x.grad!)).toEqual([0, 6, 0, 0, 0, 0, 12, 8, 6])
    const y = tensor([[3, 1, 3]], null, { requiresGrad: true })
    backward(ops.max(y))
    expect(await values(y.grad!)).toEqual([0.5, 0, 0.5])
  })
})
