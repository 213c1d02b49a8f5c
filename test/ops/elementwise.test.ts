// Elementwise functions of one and of two tensors.
import { backward } from '../../lib/autograd/backward'
import * as ops from '../../lib/ops/elementwise'
import type { OpName } from '../../lib/native/ops.gen'
import type { DType } from '../../lib/native/dtype'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { awayFromZero, host, integers, jestOnly, opCase, uniform, type Draw, type HostTensor, type InputSpec, type Rounding } from '../support/op_case'
import { broadcastShape, broadcasted, erf } from '../support/reference'

interface Unary {
  f: (x: Tensor) => Tensor
  reference: (x: number, r: Rounding) => number
  ops: OpName[]
  values?: Draw
  integers?: boolean
  noGradient?: string
  /** 1 + erf and 1 + tanh cancel for negative x. */
  errorScale?: 'tensor'
}

const withGradient = (name: OpName): OpName[] => [name, `${name}_backward` as OpName]
const sigmoid = (x: number, r: Rounding) => r(1 / r(1 + r(Math.exp(-x))))
const half = (x: number, r: Rounding) => r(0.5 * x)

const unary: Record<string, Unary> = {
  neg: { f: ops.neg, reference: (x) => -x, ops: ['neg'], integers: true },
  abs: { f: ops.abs, reference: Math.abs, ops: withGradient('abs'), values: awayFromZero(), integers: true },
  exp: { f: ops.exp, reference: (x, r) => r(Math.exp(x)), ops: withGradient('exp') },
  log: { f: ops.log, reference: (x, r) => r(Math.log(x)), ops: withGradient('log'), values: uniform(0.2, 9) },
  sqrt: { f: ops.sqrt, reference: (x, r) => r(Math.sqrt(x)), ops: withGradient('sqrt'), values: uniform(0.2, 9) },
  rsqrt: { f: ops.rsqrt, reference: (x, r) => r(1 / r(Math.sqrt(x))), ops: withGradient('rsqrt'), values: uniform(0.2, 9) },
  reciprocal: { f: ops.reciprocal, reference: (x, r) => r(1 / x), ops: withGradient('reciprocal'), values: uniform(0.5, 9) },
  square: { f: ops.square, reference: (x, r) => r(x * x), ops: withGradient('square'), integers: true },
  sin: { f: ops.sin, reference: (x, r) => r(Math.sin(x)), ops: withGradient('sin'), values: uniform(-8, 8) },
  cos: { f: ops.cos, reference: (x, r) => r(Math.cos(x)), ops: withGradient('cos'), values: uniform(-8, 8) },
  tanh: { f: ops.tanh, reference: (x, r) => r(Math.tanh(x)), ops: withGradient('tanh') },
  sigmoid: { f: ops.sigmoid, reference: sigmoid, ops: withGradient('sigmoid') },
  relu: { f: ops.relu, reference: (x) => Math.max(x, 0), ops: withGradient('relu'), values: awayFromZero(), integers: true },
  erf: { f: ops.erf, reference: (x, r) => r(erf(x)), ops: withGradient('erf') },
  geluTanh: {
    f: (x) => ops.gelu(x),
    reference: (x, r) => {
      const u = r(r(Math.sqrt(2 / Math.PI)) * r(x + r(r(0.044715) * r(x * r(x * x)))))
      return r(half(x, r) * r(1 + r(Math.tanh(u))))
    },
    ops: withGradient('gelu_tanh'),
    errorScale: 'tensor',
  },
  geluErf: {
    f: (x) => ops.gelu(x, 'none'),
    reference: (x, r) => r(half(x, r) * r(1 + r(erf(r(x * r(Math.SQRT1_2)))))),
    ops: withGradient('gelu_erf'),
    errorScale: 'tensor',
  },
  silu: { f: ops.silu, reference: (x, r) => r(x * sigmoid(x, r)), ops: withGradient('silu') },
  sign: { f: ops.sign, reference: Math.sign, ops: ['sign'], integers: true, noGradient: 'constant almost everywhere' },
  floor: { f: ops.floor, reference: Math.floor, ops: ['floor'], noGradient: 'constant almost everywhere' },
}

const shapes = [[], [1], [0, 4], [2, 33], [5, 1, 7], [3, 31]]
const floating: DType[] = ['f32', 'f16', 'bf16', 'f64']
const whole: DType[] = ['i8', 'u8', 'i32', 'i64']

for (const [name, { f, reference, ops: native, values, integers: has, noGradient, errorScale }] of Object.entries(unary)) {
  const input = (shape: number[]): InputSpec => ({ shape, values })
  opCase({
    name,
    ops: native,
    run: ([x]) => f(x),
    reference: ([x], _, r) => host(x.shape, (i) => reference(x.data[i], r)),
    samples: shapes.map((shape) => [input(shape)]),
    dtypes: floating,
    noGradient,
    errorScale,
    bench: [{ inputs: [input([1024, 1024])] }],
  })
  if (has) {
    opCase({
      name: `${name} of integers`,
      ops: [native[0]],
      run: ([x]) => f(x),
      reference: ([x], _, r) => host(x.shape, (i) => Number(BigInt.asIntN(64, BigInt(reference(x.data[i], r))))),
      samples: [[{ shape: [3, 33], values: integers(0, 11) }]],
      dtypes: name === 'neg' ? ['i8', 'i32', 'i64'] : whole,
      noGradient: 'integers have none',
    })
  }
}

opCase<{ factor: number; offset: number }>({
  name: 'scale',
  ops: ['scale'],
  run: ([x], { factor, offset }) => ops.scale(x, factor, offset),
  reference: ([x], { factor, offset }, r) => host(x.shape, (i) => r(r(x.data[i] * factor) + offset)),
  samples: shapes.map((shape) => ({ inputs: [shape], attrs: { factor: -1.5, offset: 0.25 } })),
  errorScale: 'tensor',
  bench: [{ inputs: [[1024, 1024]], attrs: { factor: 2, offset: 1 } }],
})

interface Binary {
  f: (x: Tensor, y: Tensor) => Tensor
  reference: (x: number, y: number) => number
  ops: OpName[]
  first?: Draw
  second?: Draw
  integers?: boolean
}

// Never equal, nor close.
const distinct = { first: integers(-4, 4), second: ((random, i) => integers(-4, 4)(random, i) + 0.5) as Draw }

const binary: Record<string, Binary> = {
  add: { f: ops.add, reference: (x, y) => x + y, ops: ['add', 'sum'], integers: true },
  sub: { f: ops.sub, reference: (x, y) => x - y, ops: ['sub', 'sum'], integers: true },
  mul: { f: ops.mul, reference: (x, y) => x * y, ops: ['mul', 'sum'], integers: true },
  div: { f: ops.div, reference: (x, y) => x / y, ops: ['div', 'sum'], second: uniform(0.5, 2) },
  pow: { f: ops.pow, reference: Math.pow, ops: ['pow', 'log', 'where'], first: uniform(0.3, 2), second: uniform(-2, 3) },
  minimum: { f: ops.minimum, reference: Math.min, ops: ['minimum', 'where'], ...distinct, integers: true },
  maximum: { f: ops.maximum, reference: Math.max, ops: ['maximum', 'where'], ...distinct, integers: true },
}

const pairs: [number[], number[]][] = [
  [[2, 33], [2, 33]],
  [[4, 35], [35]],
  [[35], [4, 35]],
  [[3, 5], []],
  [[], [3, 5]],
  [[3, 1], [3, 65]],
  [[3, 65], [3, 1]],
  [[2, 1, 3, 1], [5, 1, 4]],
  [[1], [1]],
  [[0, 3], [1, 3]],
  [[2, 3, 4, 5], [2, 1, 4, 1]],
]
const rounds = (f: (x: number, y: number) => number) => ([x, y]: HostTensor[], _: unknown, r: Rounding) =>
  broadcasted([x, y], ([a, b]) => r(f(a, b)))

for (const [name, { f, reference, ops: native, first, second, integers: has }] of Object.entries(binary)) {
  const inputs = ([x, y]: [number[], number[]]): InputSpec[] => [{ shape: x, values: first }, { shape: y, values: second }]
  opCase({
    name,
    ops: native,
    run: ([x, y]) => f(x, y),
    reference: rounds(reference),
    samples: pairs.map(inputs),
    // Gradients of broadcast operands pass through products of the tested format before they are summed.
    gradTolerance: { f32: 1e-5, f16: 2e-2, bf16: 0.2 },
    bench: [
      { label: 'same shape', inputs: inputs([[1024, 1024], [1024, 1024]]) },
      { label: 'bias', inputs: inputs([[1024, 768], [768]]) },
      { label: 'per row', inputs: inputs([[1024, 768], [1024, 1]]) },
    ],
    errors: [
      {
        what: 'shapes that do not broadcast',
        call: () => f(tensor([1, 2, 3]), tensor([1, 2])),
        code: 'ERR_SHAPE',
        text: [name, '[3]', '[2]'],
      },
      {
        what: 'different formats',
        call: () => f(tensor([1]), tensor([1], null, { dtype: 'f64' })),
        code: 'ERR_DTYPE',
        text: [name, 'f32', 'f64'],
      },
    ],
  })
  if (has) {
    opCase({
      name: `${name} of integers`,
      ops: [native[0]],
      run: ([x, y]) => f(x, y),
      reference: rounds(reference),
      samples: pairs.map(([x, y]) => [{ shape: x, values: integers(5, 11) }, { shape: y, values: integers(0, 6) }]),
      dtypes: whole,
      noGradient: 'integers have none',
    })
  }
}

const comparisons: Record<string, [OpName, (x: Tensor, y: Tensor) => Tensor, (x: number, y: number) => boolean]> = {
  equal: ['eq', ops.equal, (x, y) => x === y],
  notEqual: ['ne', ops.notEqual, (x, y) => x !== y],
  less: ['lt', ops.less, (x, y) => x < y],
  lessEqual: ['le', ops.lessEqual, (x, y) => x <= y],
  greater: ['gt', ops.greater, (x, y) => x > y],
  greaterEqual: ['ge', ops.greaterEqual, (x, y) => x >= y],
}
for (const [name, [op, f, reference]] of Object.entries(comparisons)) {
  opCase({
    name,
    ops: [op],
    run: ([x, y]) => f(x, y),
    reference: ([x, y]) => broadcasted([x, y], ([a, b]) => Number(reference(a, b))),
    samples: pairs.map(([x, y]) => [{ shape: x, values: integers(0, 4) }, { shape: y, values: integers(0, 4) }]),
    dtypes: [...floating, ...whole],
    outDTypes: 'bool',
    noGradient: 'bool results have none',
  })
}

const bools = (shape: number[]): InputSpec => ({ shape, values: integers(0, 2), dtype: 'bool' })
const logic: [string, OpName, (x: Tensor, y: Tensor) => Tensor, (x: number, y: number) => number][] = [
  ['logicalAnd', 'logical_and', ops.logicalAnd, (x, y) => x & y],
  ['logicalOr', 'logical_or', ops.logicalOr, (x, y) => x | y],
  ['logicalNot', 'logical_not', (x) => ops.logicalNot(x), (x) => 1 - x],
]
for (const [name, op, f, reference] of logic) {
  opCase({
    name,
    ops: [op],
    run: ([x, y]) => f(x, y),
    reference: ([x, y]) =>
      op === 'logical_not'
        ? host(x.shape, (i) => reference(x.data[i], 0))
        : broadcasted([x, y], ([a, b]) => reference(a, b)),
    samples: pairs.map(([x, y]) => [bools(x), bools(y)]),
    dtypes: ['bool'],
    noGradient: 'bool results have none',
  })
}

jestOnly(() => {
  test('a number stands for the second operand', async () => {
    const x = tensor([1, 2, 4])
    const values = async (y: Tensor) => [...(await y.toFloat32())]
    expect(await values(ops.add(x, 1))).toEqual([2, 3, 5])
    expect(await values(ops.sub(x, 1))).toEqual([0, 1, 3])
    expect(await values(ops.mul(x, 3))).toEqual([3, 6, 12])
    expect(await values(ops.div(x, 2))).toEqual([0.5, 1, 2])
    expect(await values(ops.pow(x, 3))).toEqual([1, 8, 64])
    expect(await values(ops.maximum(x, 2))).toEqual([2, 2, 4])
    expect(await values(ops.less(x, 2))).toEqual([1, 0, 0])
  })

  test('NaN and infinities', async () => {
    const x = tensor([NaN, 1, Infinity, -Infinity])
    const y = tensor([1, NaN, 2, 2])
    expect([...(await ops.maximum(x, y).toFloat32())]).toEqual([NaN, NaN, Infinity, 2])
    expect([...(await ops.minimum(x, y).toFloat32())]).toEqual([NaN, NaN, 2, -Infinity])
    expect([...(await ops.notEqual(x, x).toFloat32())]).toEqual([1, 0, 0, 0])
    expect([...(await ops.exp(x).toFloat32())]).toEqual([NaN, Math.fround(Math.E), Infinity, 0])
    const [ofNaN, ofOne, ...ofInfinities] = await ops.tanh(x).toFloat32()
    expect([ofNaN, ...ofInfinities]).toEqual([NaN, 1, -1])
    // Two units of f32: not every device rounds it right.
    expect(Math.abs(ofOne - Math.tanh(1))).toBeLessThan(1.2e-7)
    if (x.device.name === 'cpu') expect(ofOne).toBe(Math.fround(Math.tanh(1)))
    expect([...(await ops.log(tensor([0, -1, Infinity])).toFloat32())]).toEqual([-Infinity, NaN, Infinity])
  })

  test('integers wrap around, and functions of real numbers refuse them', async () => {
    const x = tensor(new Int32Array([2 ** 31 - 1, -(2 ** 31)]))
    expect([...(await ops.add(x, tensor(new Int32Array([1, -1]))).data())]).toEqual([-(2 ** 31), 2 ** 31 - 1])
    expect(() => ops.exp(x)).toThrow(expect.objectContaining({ code: 'ERR_DTYPE', message: expect.stringContaining('exp: x is i32') }))
  })

  test('numbers that an integer format does not hold are refused', async () => {
    const x = tensor([0, 1, 2], null, { dtype: 'i32' })
    const small = tensor([1], null, { dtype: 'u8' })
    const refused = (text: string) => expect.objectContaining({ code: 'ERR_ARGUMENT', message: expect.stringContaining(text) })
    expect(() => ops.less(x, 0.5)).toThrow(refused('lt: 0.5 is not a number that i32 holds'))
    expect(() => ops.equal(small, 300)).toThrow(refused('eq: 300 is not a number that u8 holds'))
    expect(() => ops.minimum(x, 2 ** 31)).toThrow(refused('minimum: 2147483648'))
    expect(() => ops.mul(x, 0.5)).toThrow(refused('scale: factor is 0.5 and x is i32'))
    expect(() => ops.add(x, 1e30)).toThrow(refused('scale: offset is 1e+30 and x is i32'))
    expect([...(await ops.less(x, 2).data())]).toEqual([1, 1, 0])
    expect([...(await ops.sub(small, 2).data())]).toEqual([255])
    expect([...(await ops.scale(x, -3, 1).data())]).toEqual([1, -2, -5])
  })

  test('equal numbers share the gradient of the maximum', async () => {
    const x = tensor([1, 2], null, { requiresGrad: true })
    const y = tensor([1, 3], null, { requiresGrad: true })
    backward(ops.maximum(x, y), tensor([4, 6]))
    expect([[...(await x.grad!.toFloat32())], [...(await y.grad!.toFloat32())]]).toEqual([[2, 0], [2, 6]])
  })

  test('shapes of the reference itself', () => {
    expect(broadcastShape([2, 1, 3, 1], [5, 1, 4])).toEqual([2, 5, 3, 4])
  })
})
