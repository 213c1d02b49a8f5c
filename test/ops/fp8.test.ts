// The 8-bit floating formats: every code and thousands of numbers as PyTorch has them, saturation, products' errors.
import { noGrad } from '../../lib/autograd/tape'
import { fp8Largest, fp8Matmul, fromFp8, toFp8, type Fp8Format } from '../../lib/ops/fp8'
import { matmul } from '../../lib/ops/matmul'
import { randn } from '../../lib/ops/random'
import { max } from '../../lib/ops/reductions'
import { abs, mulScalar } from '../../lib/ops/elementwise'
import { Generator } from '../../lib/tensor/random'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { goldenTensors } from '../support/goldens'
import { host, integers, jestOnly, opCase, type InputSpec } from '../support/op_case'

const { abs: size, min, round, sign } = Math

/** The nearest number of a format, by the definition: the grid has the step 2^(e - mantissa), ties go to an even multiple. */
function nearest(x: number, format: Fp8Format): number {
  if (size(x) === Infinity) return format === 'e5m2' ? x : NaN
  if (size(x) >= fp8Largest[format]) return sign(x) * fp8Largest[format]
  const [mantissa, smallest] = format === 'e4m3' ? [3, -6] : [2, -14]
  const exponent = Math.max(smallest, Math.floor(Math.log2(size(x) || 1)))
  const step = 2 ** (exponent - mantissa)
  const steps = size(x) / step
  const even = round(steps) - (steps % 1 === 0.5 && round(steps) % 2 === 1 ? 1 : 0)
  return sign(x) * min(even * step, fp8Largest[format])
}

for (const format of ['e4m3', 'e5m2'] as const) {
  opCase({
    name: `fp8 ${format}`,
    ops: ['to_fp8', 'from_fp8'],
    run: ([x]) => fromFp8(toFp8(x, format), format),
    reference: ([x]) => host(x.shape, (i) => nearest(x.data[i], format)),
    samples: [[[3, 100]], [[1]], [[0, 4]], [{ shape: [2100], values: (random, i) => random.normal() * 2 ** ((i % 41) - 24) }]],
    dtypes: ['f32', 'f16', 'bf16'],
    outDTypes: 'f32',
    noGradient: 'codes are integers; techniques pass the rounding straight through',
    bench: [{ inputs: [[1024, 1024]], dtypes: ['f32', 'bf16'] }],
    errors: [
      { what: 'f64', call: () => toFp8(tensor([1], null, { dtype: 'f64' }), format), code: 'ERR_DTYPE', text: ['to_fp8', 'f64'] },
      { what: 'no codes', call: () => fromFp8(tensor([1]), format), code: 'ERR_DTYPE', text: ['from_fp8', 'f32'] },
    ],
  })
}

opCase({
  name: 'fp8 with a scale',
  ops: ['to_fp8', 'from_fp8'],
  run: ([x, scale]) => fromFp8(toFp8(x, 'e4m3', { scale }), 'e4m3', 'bf16'),
  reference: ([x, scale]) => host(x.shape, (i) => nearest(Math.fround(x.data[i] * scale.data[0]), 'e4m3')),
  samples: [[[7, 50], { shape: [1], dtype: 'f32', values: [37.3], grad: false }]],
  dtypes: ['f32', 'f16', 'bf16'],
  outDTypes: 'bf16',
  noGradient: 'codes are integers; techniques pass the rounding straight through',
  errors: [{ what: 'a scale for each', call: () => toFp8(tensor([1, 2]), 'e4m3', { scale: tensor([1, 2]) }), code: 'ERR_SHAPE', text: ['to_fp8', 'scale', '[2]'] }],
})

opCase({
  name: 'fp8 codes',
  ops: ['from_fp8'],
  run: ([codes]) => fromFp8(codes, 'e4m3', 'bf16'),
  reference: ([codes]) => host(codes.shape, (i) => (codes.data[i] % 8 === 7 && codes.data[i] % 128 > 119 ? NaN : valueOf(codes.data[i]))),
  samples: [[{ shape: [300], values: integers(0, 256) }]],
  dtypes: ['u8'],
  outDTypes: 'bf16',
  noGradient: 'codes are integers',
})

// A few numbers and their codes: every sum of their products is exact in the few bits that FP8 tensor cores keep.
const few = [0, 0.5, 1, 1.5, 2, 3, 4]
const fewCodes = { e4m3: [0, 0x30, 0x38, 0x3c, 0x40, 0x44, 0x48], e5m2: [0, 0x38, 0x3c, 0x3e, 0x40, 0x42, 0x44] }
const small = (shape: number[], format: Fp8Format): InputSpec => {
  const draw = integers(0, few.length)
  return { shape, values: (random, i) => fewCodes[format][draw(random, i)] + (random.uniform(0, 1) < 0.5 ? 128 : 0) }
}
const smallValue = (code: number, format: Fp8Format) => few[fewCodes[format].indexOf(code % 128)] * (code > 127 ? -1 : 1)
const factor = (value: number): InputSpec => ({ shape: [1], dtype: 'f32', values: [value], grad: false })

for (const [a, b] of [['e4m3', 'e4m3'], ['e5m2', 'e4m3'], ['e4m3', 'e5m2'], ['e5m2', 'e5m2']] as const) {
  opCase({
    name: `fp8 matmul, ${a} by ${b}`,
    ops: ['fp8_matmul'],
    run: ([x, y, f, g]) => fp8Matmul({ codes: x, format: a, factor: f }, { codes: y, format: b, factor: g }),
    reference: ([x, y, f, g]) => {
      const [n, k] = y.shape
      return host([x.shape[0], n], (i) => {
        let sum = 0
        for (let d = 0; d < k; ++d) sum += smallValue(x.data[Math.floor(i / n) * k + d], a) * smallValue(y.data[(i % n) * k + d], b)
        return Math.fround(sum * Math.fround(f.data[0] * g.data[0]))
      })
    },
    // As tensor cores want them, and not so; nothing to add, nothing to write.
    samples: [
      [small([48, 64], a), small([32, 64], b), factor(0.3), factor(7)],
      [small([5, 33], a), small([70, 33], b), factor(1), factor(0.5)],
      [small([3, 0], a), small([2, 0], b), factor(1), factor(1)],
      [small([0, 16], a), small([16, 16], b), factor(1), factor(1)],
    ],
    dtypes: ['u8'],
    outDTypes: 'f32',
    errorScale: 'tensor',
    noGradient: 'codes are integers; layers record gradients of their own',
    bench: a === 'e4m3' && b === 'e4m3' ? [{ inputs: [small([512, 512], a), small([512, 512], b), factor(1), factor(1)], dtypes: ['u8'] }] : [],
    errors: [
      {
        what: 'rows of other lengths',
        call: () => fp8Matmul({ codes: codesOf([2, 3]), format: a, factor: tensor([1]) }, { codes: codesOf([2, 4]), format: b, factor: tensor([1]) }),
        code: 'ERR_SHAPE', text: ['fp8_matmul', '3 codes', '4'],
      },
      {
        what: 'two factors',
        call: () => fp8Matmul({ codes: codesOf([2, 3]), format: a, factor: tensor([1, 2]) }, { codes: codesOf([2, 3]), format: b, factor: tensor([1]) }),
        code: 'ERR_SHAPE', text: ['factor_a', '[2]'],
      },
    ],
  })
}
const codesOf = (shape: number[]) => tensor(new Uint8Array(shape.reduce((n, d) => n * d, 1)), shape, { dtype: 'u8' })

/** E4M3 by its definition. */
function valueOf(code: number): number {
  const exponent = (code >> 3) & 15
  const value = exponent ? (1 + (code & 7) / 8) * 2 ** (exponent - 7) : (code & 7) * 2 ** -9
  return code & 128 ? -value : value
}

jestOnly(() => {
  test.each(['e4m3', 'e5m2'] as const)('%s: all 256 codes and what PyTorch rounds to', async (format) => {
    const goldens = await goldenTensors('quantisation')
    const codes = tensor(Uint8Array.from({ length: 256 }, (_, i) => i), [256], { dtype: 'u8' })
    for (const dtype of ['f32', 'bf16', 'f16'] as const) {
      expect(await fromFp8(codes, format, dtype).toFloat64()).toEqual(goldens.numbers(format))
    }
    const back = Array.from((await toFp8(fromFp8(codes, format), format, { saturate: false }).data()) as Uint8Array)
    const nan = format === 'e4m3' ? [127, 255] : [125, 126, 127, 253, 254, 255]
    expect(back.filter((_, i) => !nan.includes(i))).toEqual(Array.from({ length: 256 }, (_, i) => i).filter((i) => !nan.includes(i)))
    const x = goldens.numbers('x')
    const own = Array.from((await toFp8(tensor(Float32Array.from(x), [x.length]), format).data()) as Uint8Array)
    const theirs = goldens.ints(`to.${format}`)
    const inside = own.map((code, i) => [i, code] as const).filter(([i]) => size(x[i]) <= fp8Largest[format])
    expect(inside.length).toBeGreaterThan(2500)
    expect(inside.filter(([i, code]) => theirs[i] !== code)).toEqual([])
  })

  test('what is beyond the largest number', async () => {
    const x = tensor([464, 465, 480, 1e9, -Infinity, NaN, 57344, 61440, 61439])
    const decoded = async (format: Fp8Format, saturate: boolean) => Array.from(await fromFp8(toFp8(x, format, { saturate }), format).toFloat64())
    expect(await decoded('e4m3', true)).toEqual([448, 448, 448, 448, NaN, NaN, 448, 448, 448])
    // 464 is a tie between 448 and what would be 480, and 448 is even.
    expect(await decoded('e4m3', false)).toEqual([448, NaN, NaN, NaN, NaN, NaN, NaN, NaN, NaN])
    expect(await decoded('e5m2', true)).toEqual([448, 448, 512, 57344, -Infinity, NaN, 57344, 57344, 57344])
    expect(await decoded('e5m2', false)).toEqual([448, 448, 512, Infinity, -Infinity, NaN, 57344, Infinity, 57344])
  })

  test('errors of products of normal numbers: 3.7 % of E4M3 by E4M3, 5.9 % of E5M2 by E4M3', async () => {
    const [a, b] = [1, 2].map((seed) => randn([256, 1024], { generator: new Generator(seed) }))
    const product = (x: Tensor, y: Tensor) => noGrad(() => matmul(x, y, { transposeB: true })).toFloat64()
    const rounded = async (x: Tensor, format: Fp8Format) => {
      const factor = fp8Largest[format] / (await max(abs(x)).item())
      return noGrad(() => mulScalar(fromFp8(toFp8(mulScalar(x, factor), format), format), 1 / factor))
    }
    const norm = (x: Float64Array) => Math.sqrt(x.reduce((s, v) => s + v * v, 0))
    const exact = await product(a, b)
    const error = async (format: Fp8Format) => {
      const own = await product(await rounded(a, format), await rounded(b, 'e4m3'))
      return norm(own.map((v, i) => v - exact[i])) / norm(exact)
    }
    expect(size((await error('e4m3')) - 0.037)).toBeLessThan(0.001)
    expect(size((await error('e5m2')) - 0.059)).toBeLessThan(0.001)
  })
})
