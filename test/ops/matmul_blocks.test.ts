// Matrix products in several blocks and steps, with rows and columns left over: sums of whole numbers, exact in f32. So the
// product times a vector without zeros is the factors times it, and no rounding hides a wrong element.
import { noGrad } from '../../lib/autograd/tape'
import { cast } from '../../lib/ops/cast'
import { product } from '../../lib/ops/matmul'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { withThreads } from '../support/devices'
import { jestOnly } from '../support/op_case'

interface Shape {
  what: string
  m: number
  n: number
  k: number
  /** Which of the layouts below, if not all. */
  layouts?: number[]
}
const shapes: Shape[] = [
  { what: 'rows and columns left over', m: 61, n: 100, k: 50 },
  { what: 'no columns, only sums of rows', m: 131, n: 0, k: 90 },
  { what: 'fewer panels than threads', m: 200, n: 40, k: 130 },
  { what: 'several steps', m: 131, n: 70, k: 1700 },
  { what: 'several blocks of columns', m: 33, n: 1500, k: 2100, layouts: [0, 2] },
  { what: 'several blocks along k', m: 20, n: 190, k: 23001, layouts: [0, 2] },
  { what: 'too large for sums beside it', m: 1500, n: 1450, k: 2111, layouts: [2] },
]
const layouts = [
  { transposeA: false, transposeB: true },
  { transposeA: false, transposeB: false },
  { transposeA: true, transposeB: false },
]

/** Whole numbers from -2 to 2. */
function small(count: number, seed: number): Float32Array {
  let state = seed
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return ((state >>> 16) % 5) - 2
  })
}

/** op(matrix) [rows, columns] times a vector, for a matrix stored by rows or, transposed, by columns. */
function times(matrix: ArrayLike<number>, rows: number, columns: number, transposed: boolean, vector: Float64Array): Float64Array {
  const result = new Float64Array(rows)
  for (let i = 0; i < rows; ++i) {
    for (let j = 0; j < columns; ++j) result[i] += matrix[transposed ? j * rows + i : i * columns + j] * vector[j]
  }
  return result
}

// Jest's own comparison takes minutes for millions of numbers.
const same = (x: Float64Array, y: Float64Array) => Buffer.from(x.buffer).equals(Buffer.from(y.buffer))

jestOnly(() => {
  const names = ['A B^T', 'A B', 'A^T B']
  const cases = shapes.flatMap(({ layouts: some = [0, 1, 2], ...shape }) => some.map((i) => ({ ...shape, ...layouts[i], layout: names[i] })))
  test.each(cases)('$what: $layout', async ({ m, n, k, transposeA, transposeB }) => {
    const [hostA, hostB, hostC, hostBias] = [m * k, n * k, m * n, n].map((count, i) => small(count, i + 1))
    const vector = Float64Array.from(small(n, 5), (x) => x + 3) // no zeros
    const ofProduct = times(hostA, m, k, transposeA, times(hostB, k, n, transposeB, vector))
    const ofC = times(hostC, m, n, false, vector)
    const ofBias = vector.reduce((sum, x, j) => sum + x * hostBias[j], 0)
    const rowSums = Array.from(times(hostA, m, k, transposeA, new Float64Array(k).fill(1)))

    const results = async (dtype: 'f32' | 'bf16') => {
      const [a, b, bias] = [
        tensor(hostA, transposeA ? [k, m] : [m, k], { dtype }),
        tensor(hostB, transposeB ? [n, k] : [k, n], { dtype }),
        tensor(hostBias, [n], { dtype: 'f32' }),
      ]
      const layout = { transposeA, transposeB, outDType: 'f32' as const }
      const into = tensor(hostC, [m, n], { dtype: 'f32' })
      const into16 = tensor(hostC, [m, n], { dtype })
      const sumsInto = tensor(new Float32Array(m).fill(7), [m], { dtype: 'f32' })
      const all: Tensor[] = noGrad(() => {
        const [bare, sums] = product(a, b, { ...layout, rowSums: true })
        const [withBias] = product(a, b, { ...layout, bias })
        const [narrow] = product(a, b, { ...layout, outDType: dtype })
        product(a, b, { ...layout, into, rowSums: true, rowSumsInto: sumsInto })
        product(a, b, { ...layout, outDType: dtype, into: into16 })
        return [bare, sums, withBias, narrow, into, sumsInto, into16, cast(bare, dtype), cast(into, dtype)]
      })
      return Promise.all(all.map((t) => t.toFloat64()))
    }
    for (const dtype of ['f32', 'bf16'] as const) {
      const first = await withThreads(1, () => results(dtype))
      const [bare, sums, withBias, narrow, into, sumsInto, into16, rounded, intoRounded] = first
      expect(times(bare, m, n, false, vector)).toEqual(ofProduct)
      expect(Array.from(sums)).toEqual(rowSums)
      expect(times(withBias, m, n, false, vector)).toEqual(ofProduct.map((x) => x + ofBias))
      expect(same(narrow, rounded)).toBe(true)
      expect(times(into, m, n, false, vector)).toEqual(ofProduct.map((x, i) => x + ofC[i]))
      expect(Array.from(sumsInto)).toEqual(rowSums.map((x) => x + 7))
      expect(same(into16, intoRounded)).toBe(true)
      for (const threads of [2, 3]) {
        const again = await withThreads(threads, () => results(dtype))
        expect(again.map((numbers, i) => same(numbers, first[i]))).toEqual(first.map(() => true))
      }
    }
  })
})
