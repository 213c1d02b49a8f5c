// matmul: single and batched, either side transposed, a batch on one side only.
import { matmul, type MatmulOptions } from '../../lib/ops/matmul'
import { zeros } from '../../lib/ops/creation'
import { noGrad } from '../../lib/autograd/tape'
import { cast } from '../../lib/ops/cast'
import { randn } from '../../lib/ops/random'
import { Generator } from '../../lib/tensor/random'
import { host, jestOnly, opCase } from '../support/op_case'

opCase<MatmulOptions>({
  name: 'matmul',
  ops: ['matmul'],
  run: ([a, b], options) => matmul(a, b, options),
  reference: ([a, b], { transposeA = false, transposeB = false }, r) => {
    const [ra, ca] = a.shape.slice(-2)
    const [rb, cb] = b.shape.slice(-2)
    const [m, k, n] = [transposeA ? ca : ra, transposeA ? ra : ca, transposeB ? rb : cb]
    const batchA = a.shape.slice(0, -2).reduce((x, y) => x * y, 1)
    const batchB = b.shape.slice(0, -2).reduce((x, y) => x * y, 1)
    const leading = batchA >= batchB && a.shape.length >= b.shape.length ? a.shape.slice(0, -2) : b.shape.slice(0, -2)
    return host([...leading, m, n], (flat) => {
      const j = flat % n
      const i = Math.floor(flat / n) % m
      const e = Math.floor(flat / (m * n))
      const ofA = (batchA > 1 ? e : 0) * m * k
      const ofB = (batchB > 1 ? e : 0) * k * n
      let sum = 0
      for (let c = 0; c < k; ++c) {
        const x = a.data[ofA + (transposeA ? c * m + i : i * k + c)]
        const y = b.data[ofB + (transposeB ? j * k + c : c * n + j)]
        sum = r(sum + r(x * y))
      }
      return sum
    })
  },
  errorScale: 'tensor',
  samples: [
    { inputs: [[5, 7], [7, 3]], attrs: {} },
    { inputs: [[7, 5], [7, 3]], attrs: { transposeA: true } },
    { inputs: [[5, 7], [3, 7]], attrs: { transposeB: true } },
    { inputs: [[7, 5], [3, 7]], attrs: { transposeA: true, transposeB: true } },
    { inputs: [[3, 17, 20], [3, 20, 33]], attrs: {} },
    { inputs: [[3, 20, 17], [3, 33, 20]], attrs: { transposeA: true, transposeB: true } },
    { inputs: [[2, 3, 4, 5], [5, 6]], attrs: {} },
    { inputs: [[2, 3, 5], [4, 5]], attrs: { transposeB: true } },
    { inputs: [[2, 5, 3], [5, 4]], attrs: { transposeA: true } },
    { inputs: [[4, 5], [3, 5, 6]], attrs: {} },
    { inputs: [[1, 4, 5], [3, 5, 6]], attrs: {} },
    { inputs: [[0, 4], [4, 3]], attrs: {} },
    { inputs: [[3, 0], [0, 2]], attrs: {} },
    { inputs: [[50, 400], [400, 37]], attrs: {} },
    // Few rows or few columns.
    ...[1, 2, 3, 6, 16].map((few) => ({ inputs: [[few, 133], [70, 133]], attrs: { transposeB: true } })),
    { inputs: [[70, 133], [7, 133]], attrs: { transposeB: true } },
    { inputs: [[2, 70, 133], [2, 133, 5]], attrs: {} },
  ],
  gradTolerance: { bf16: 0.05, f16: 0.01 },
  bench: [
    { inputs: [[1024, 1024], [1024, 1024]], attrs: {} },
    { inputs: [[1, 768], [2304, 768]], attrs: { transposeB: true } },
  ],
  errors: [
    { what: 'inner sizes that differ', call: () => matmul(zeros([2, 3]), zeros([4, 5])), code: 'ERR_SHAPE', text: ['matmul', '3', '4'] },
    { what: 'a vector', call: () => matmul(zeros([3]), zeros([3, 5])), code: 'ERR_SHAPE', text: ['matmul', '[3]'] },
    { what: 'integers', call: () => matmul(zeros([2, 2], { dtype: 'i32' }), zeros([2, 2])), code: 'ERR_DTYPE', text: ['matmul', 'i32'] },
    { what: 'batches that differ', call: () => matmul(zeros([2, 3, 4]), zeros([3, 4, 5])), code: 'ERR_SHAPE', text: ['[2, 3, 4]', '[3, 4, 5]'] },
  ],
})

jestOnly(() => {
  // Published: 2.9e-4 and 2.3e-3 from the roundings of the factors, to which that of the result adds.
  test.each([['f16', 2.9e-4, 5e-4], ['bf16', 2.3e-3, 4e-3]] as const)('%s: errors of normal numbers over 1024 terms, in the three roles of a layer', async (dtype, factors, whole) => {
    const [tokens, inner, out] = [192, 1024, 128]
    const roles = [
      { a: [tokens, inner], b: [out, inner], options: { transposeB: true } },
      { a: [tokens, inner], b: [inner, out], options: {} },
      { a: [inner, tokens], b: [inner, out], options: { transposeA: true } },
    ]
    for (const { a: left, b: right, options } of roles) {
      const [a, b] = [left, right].map((shape, i) => randn(shape, { generator: new Generator(i + 1), dtype: 'f64' }))
      const exact = await noGrad(() => matmul(a, b, options)).toFloat64()
      const error = async (format: 'f32' | 'f16' | 'bf16') => {
        const own = await noGrad(() => matmul(cast(cast(a, dtype), format), cast(cast(b, dtype), format), options)).toFloat64()
        return Math.hypot(...own.map((x, i) => x - exact[i])) / Math.hypot(...exact)
      }
      expect(Math.abs((await error('f32')) / factors - 1)).toBeLessThan(0.05)
      expect(await error(dtype)).toBeLessThan(whole)
    }
  })
})
