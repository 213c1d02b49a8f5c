// Products of int8 codes: exact sums, one rounding; the codes of rows; the published error of normal matrices.
import { noGrad } from '../../lib/autograd/tape'
import { int8Matmul, quantizeRows } from '../../lib/ops/int8_matmul'
import { matmul } from '../../lib/ops/matmul'
import { randn } from '../../lib/ops/random'
import { to } from '../../lib/ops/to'
import { IntWeight } from '../../lib/nn/int_weight'
import { Generator } from '../../lib/tensor/random'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { testDevices } from '../support/devices'
import { digest } from '../support/digest'
import { host, integers, jestOnly, opCase, uniform } from '../support/op_case'

const { fround } = Math
const codes = (shape: number[]) => ({ shape, dtype: 'i8', values: integers(-128, 128) }) as const
const scales = (shape: number[]) => ({ shape, dtype: 'f32', values: uniform(0.01, 1), grad: false }) as const

opCase<undefined>({
  name: 'int8 matmul',
  ops: ['int8_matmul'],
  run: ([a, b, s, t, zeros, bias]) => int8Matmul({ codes: a, scales: s }, { codes: b, scales: t }, { zeros, bias, outDType: 'f32' }),
  reference: ([a, b, s, t, zeros, bias]) => {
    const k = a.shape[a.shape.length - 1]
    const n = b.shape[0]
    const at = (x: { data: Float64Array } | null, i: number) => (x ? x.data[x.data.length === 1 ? 0 : i] : 0)
    return host([...a.shape.slice(0, -1), n], (p) => {
      const [i, j] = [Math.floor(p / n), p % n]
      let sum = 0
      for (let c = 0; c < k; ++c) sum += (a.data[i * k + c] - at(zeros, i)) * b.data[j * k + c]
      // The bits of a sum that is exact and one product; a bias may be added with or without a rounding before it.
      return fround(fround(sum) * fround(at(s, i) * at(t, j))) + at(bias, j)
    })
  },
  samples: [
    { inputs: [codes([5, 33]), codes([7, 33]), scales([5]), scales([7]), null, null] },
    { inputs: [codes([2, 9, 128]), codes([70, 128]), scales([18]), scales([1]), null, null] },
    { inputs: [codes([31, 3]), codes([1, 3]), scales([1]), scales([1]), { shape: [31], dtype: 'i32', values: integers(-128, 128) }, null] },
    { inputs: [codes([4, 260]), codes([33, 260]), scales([1]), scales([33]), { shape: [1], dtype: 'i32', values: [17] }, scales([33])] },
    { inputs: [codes([0, 8]), codes([3, 8]), scales([0]), scales([3]), null, null] },
    { inputs: [codes([2, 0]), codes([3, 0]), scales([2]), scales([3]), null, scales([3])] },
  ],
  dtypes: ['i8'],
  outDTypes: 'f32',
  errorScale: 'tensor',
  noGradient: 'codes are integers; layers record gradients of their own',
  bench: [
    { inputs: [codes([1024, 768]), codes([768, 768]), scales([1024]), scales([768]), null, null], dtypes: ['i8'] },
  ],
  errors: [
    {
      what: 'rows of different lengths',
      call: () => int8Matmul({ codes: bytes([2, 3]), scales: tensor([1, 1]) }, { codes: bytes([2, 4]), scales: tensor([1, 1]) }),
      code: 'ERR_SHAPE', text: ['int8_matmul', '3 codes', '4'],
    },
    {
      what: 'too few scales',
      call: () => int8Matmul({ codes: bytes([3, 4]), scales: tensor([1, 1]) }, { codes: bytes([2, 4]), scales: tensor([1, 1]) }),
      code: 'ERR_SHAPE', text: ['a_scales', '[3]'],
    },
  ],
})
const bytes = (shape: number[]) => tensor(new Int8Array(shape.reduce((a, b) => a * b, 1)), shape, { dtype: 'i8' })

opCase<{ top: number }>({
  name: 'quantize rows',
  ops: ['quantize_rows'],
  run: ([x], { top }) => {
    const rows = quantizeRows(x, top)
    return [rows.codes, rows.scales]
  },
  reference: ([x], { top }) => {
    const n = x.shape[x.shape.length - 1]
    const outer = x.shape.slice(0, -1)
    const rows = outer.reduce((a, b) => a * b, 1)
    const steps = Array.from({ length: rows }, (_, r) => {
      const most = x.data.slice(r * n, (r + 1) * n).reduce((m, v) => Math.max(m, Math.abs(v)), fround(1e-30))
      return fround(most * fround(1 / top))
    })
    const even = (v: number) => (Math.abs(v % 1) === 0.5 ? 2 * Math.round(v / 2) : Math.round(v))
    return [host(x.shape, (i) => even(fround(x.data[i] / steps[Math.floor(i / n)])) + 0), host(outer, steps)]
  },
  samples: [
    { inputs: [[5, 33]], attrs: { top: 127 } },
    { inputs: [[2, 3, 64]], attrs: { top: 7 } },
    { inputs: [[17]], attrs: { top: 127 } },
    { inputs: [{ shape: [2, 5], values: [0, 0, 0, 0, 0, 127, 0.5, 1.5, -2.5, 3.5] }], attrs: { top: 127 } },
    { inputs: [[0, 4]], attrs: { top: 127 } },
  ],
  dtypes: ['f32', 'f16', 'bf16'],
  outDTypes: () => ['i8', 'f32'],
  noGradient: 'codes are integers; layers record gradients of their own',
  bench: [{ inputs: [[1024, 1024]], attrs: { top: 127 }, dtypes: ['f32', 'bf16'] }],
  errors: [{ what: 'top 128', call: () => quantizeRows(tensor([1]), 128), code: 'ERR_ARGUMENT', text: ['quantize_rows', 'top', '128'] }],
})

jestOnly(() => {
  test('normal 256 x 1024 x 256: the product has an error of 1.1 %', async () => {
    const [x, w] = [1, 2].map((seed) => randn([256, 1024], { generator: new Generator(seed) }))
    const exact = await noGrad(() => matmul(x, w, { transposeB: true })).toFloat64()
    const own = await int8Matmul(quantizeRows(x), quantizeRows(w)).toFloat64()
    const norm = (v: Float64Array) => Math.sqrt(v.reduce((s, a) => s + a * a, 0))
    expect(Math.abs(norm(own.map((v, i) => v - exact[i])) / norm(exact) - 0.011)).toBeLessThan(0.0005)
  })

  test('rows have the codes and scales of post-training quantisation, bit for bit', async () => {
    const w = randn([33, 100], { generator: new Generator(3) })
    for (const bits of [8, 4] as const) {
      const packed = new IntWeight(w, { bits })
      const rows = quantizeRows(w, 2 ** (bits - 1) - 1)
      expect(await rows.scales.toFloat32()).toEqual(await packed.scales.tensor.toFloat32())
      if (bits === 8) expect(await rows.codes.data()).toEqual(await packed.codes.tensor.data())
    }
  })

  // More tiles than one; rows that cannot be read or written by 16 bytes; enough for the library, which makes two parts of it.
  test.each([[300, 520, 144], [260, 263, 33], [1100, 16392, 64]])('%d x %d numbers of %d products are those of the CPU, bit for bit', async (m, n, k) => {
    const [a, b] = [m, n].map((rows, i) => quantizeRows(randn([rows, k], { generator: new Generator(i), device: 'cpu' })))
    const zeros = tensor(Int32Array.from({ length: m }, (_, i) => (i % 255) - 127), [m], { dtype: 'i32', device: 'cpu' })
    const bits = async (y: Tensor) => digest([await y.data()])
    const options = { zeros, outDType: 'bf16' } as const
    const expected = await bits(int8Matmul(a, b, options))
    for (const device of testDevices()) {
      const [x, y] = [a, b].map(({ codes, scales }) => ({ codes: to(codes, device), scales: to(scales, device) }))
      expect(await bits(int8Matmul(x, y, { ...options, zeros: to(zeros, device) }))).toBe(expected)
    }
  })

  test('sums are exact at the ends of the range', async () => {
    const all = (value: number, shape: [number, number]): Tensor => tensor(new Int8Array(shape[0] * shape[1]).fill(value), shape, { dtype: 'i8' })
    for (const [p, q] of [[-128, -128], [127, -128], [-128, 127], [127, 127]]) {
      const y = int8Matmul({ codes: all(p, [3, 8191]), scales: tensor([1]) }, { codes: all(q, [2, 8191]), scales: tensor([1]) })
      expect(new Set(await y.toFloat64())).toEqual(new Set([fround(p * q * 8191)]))
    }
  })
})
