// Muon: the spectrum after the iteration, scale invariance, published trace, PyTorch's formula, fused matrices, who is hidden.
import { Muon, orthogonalize } from '../../lib/optim/muon'
import { Parameter } from '../../lib/nn/parameter'
import { Generator } from '../../lib/tensor/random'
import { randn } from '../../lib/ops/random'
import { mulScalar } from '../../lib/ops/elementwise'
import { keep } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { bitsOf, expectContract, goldenError } from '../support/optimizers'

// Globals are slow to reach from within jest.
const { abs, sqrt } = Math

/** Eigenvalues of a symmetric matrix by Jacobi rotations. */
function eigenvalues(a: number[][]): number[] {
  const n = a.length
  for (let sweep = 0; sweep < 8; ++sweep) {
    for (let p = 0; p < n; ++p) {
      for (let q = p + 1; q < n; ++q) {
        if (abs(a[p][q]) < 1e-15) continue
        const theta = (a[q][q] - a[p][p]) / (2 * a[p][q])
        const t = (theta < 0 ? -1 : 1) / (abs(theta) + sqrt(theta * theta + 1))
        const c = 1 / sqrt(t * t + 1)
        const s = t * c
        for (let k = 0; k < n; ++k) [a[k][p], a[k][q]] = [c * a[k][p] - s * a[k][q], s * a[k][p] + c * a[k][q]]
        for (let k = 0; k < n; ++k) [a[p][k], a[q][k]] = [c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]]
      }
    }
  }
  return a.map((row, i) => row[i])
}

async function singularValues(x: Tensor): Promise<number[]> {
  const [rows, columns] = x.shape
  const data = await x.toFloat64()
  const gram = Array.from({ length: columns }, (_, i) =>
    Array.from({ length: columns }, (_, j) => {
      let sum = 0
      for (let r = 0; r < rows; ++r) sum += data[r * columns + i] * data[r * columns + j]
      return sum
    }),
  )
  return eigenvalues(gram).map((x) => Math.sqrt(Math.max(0, x)))
}

test('singular values from 0.01 to 1 of the normalised matrix land in [0.6818, 1.1344]; from 0.003 on up to 1.2024', async () => {
  for (const [low, high] of [[0.01, 1.1344], [0.003, 1.2024]]) {
    // A diagonal matrix of norm 1 cannot have more than one value near 1: each value is tested beside one that fills up the norm.
    for (let k = 0; k <= 40; ++k) {
      const s = Math.min(0.9999, low * (1 / low) ** (k / 40))
      const u = tensor([s, 0, 0, Math.sqrt(1 - s * s)], [2, 2], { dtype: 'f64' })
      const x = (await orthogonalize(u, { eps: 0 }).toFloat64())[0]
      expect([s, x > 0.6817 && x < high + 1e-4]).toEqual([s, true])
    }
  }
})

test('a Gaussian 256 x 64 comes out with singular values in [0.681, 1.135], whatever its scale', async () => {
  const u = randn([256, 64], { generator: new Generator(3), dtype: 'f64' })
  const o = orthogonalize(u)
  const values = await singularValues(o)
  expect(Math.min(...values)).toBeGreaterThan(0.681)
  expect(Math.max(...values)).toBeLessThan(1.135)
  const plain = await o.toFloat64()
  for (const [factor, tolerance] of [[1e4, 1e-6], [1e-4, 5e-3]]) {
    const scaled = await orthogonalize(mulScalar(u, factor)).toFloat64()
    const largest = Math.max(...plain.map(Math.abs))
    plain.forEach((x, i) => expect(Math.abs(x - scaled[i]) / largest).toBeLessThan(tolerance))
  }
})

test('bf16 products stay within 5 % of f32', async () => {
  const u = randn([48, 64], { generator: new Generator(3) })
  const [wide, narrow] = [await orthogonalize(u).toFloat64(), await orthogonalize(u, { bf16: true }).toFloat64()]
  const norm = (x: Float64Array) => Math.sqrt(x.reduce((s, v) => s + v * v, 0))
  expect(norm(wide.map((x, i) => x - narrow[i])) / norm(wide)).toBeLessThan(0.05)
})

test('the published trace: lr 0.02, momentum 0.95, scale 1', async () => {
  const parameter = new Parameter(tensor([1, -2, 0.5, 0.25], [2, 2], { dtype: 'f64' }))
  const optimizer = new Muon([{ parameters: new Map([['hidden', parameter]]) }], { scale: 'shape' })
  const expected = [
    [0.9842284775, -1.9862477169, 0.4882669564, 0.2402861959],
    [0.9998357746, -1.9958909709, 0.4843737522, 0.2221372801],
  ]
  // (1 - momentum^2) of the first gradient.
  const first = await orthogonalize(tensor([0.1, -0.2, 0.3, 0.4].map((g) => 0.0975 * g), [2, 2], { dtype: 'f64' })).toFloat64()
  ;[0.7885761272, -0.6876141536, 0.58665218, 0.4856902064].forEach((x, k) => expect(first[k]).toBeCloseTo(x, 9))
  for (const [i, g] of [[0.1, -0.2, 0.3, 0.4], [-0.5, 0.05, 0.2, 0.1]].entries()) {
    parameter.tensor.grad = keep(tensor(g, [2, 2], { dtype: 'f64' }))
    optimizer.step(0.02)
    // The published numbers leave out the 1e-7 that guards the norm of small gradients.
    ;(await parameter.tensor.toFloat64()).forEach((x, k) => expect(x).toBeCloseTo(expected[i][k], 8))
  }
  optimizer.dispose()
  parameter.dispose()
})

test("PyTorch's formula in f64", async () => {
  const error = await goldenError('muon', (parameters) => new Muon([{ parameters, weightDecay: 0.1 }]), ['wide', 'tall'])
  expect(error).toBeLessThan(1e-12)
})

test('a fused matrix moves as its parts would alone', async () => {
  const values = (shape: number[], seed: number) => randn(shape, { generator: new Generator(seed) })
  const fused = new Parameter(values([24, 8], 1))
  fused.parts = [8, 16]
  const optimizer = new Muon([{ parameters: new Map([['qkv', fused]]) }])
  fused.tensor.grad = keep(values([24, 8], 2))
  const before = await fused.tensor.toFloat32()
  const grads = await fused.grad!.toFloat32()
  optimizer.step(0.1)
  const after = await fused.tensor.toFloat32()
  let first = 0
  for (const rows of fused.parts) {
    const part = new Parameter(tensor(before.slice(first * 8, (first + rows) * 8), [rows, 8]))
    const alone = new Muon([{ parameters: new Map([['part', part]]) }])
    part.tensor.grad = keep(tensor(grads.slice(first * 8, (first + rows) * 8), [rows, 8]))
    alone.step(0.1)
    expect(Array.from(await part.tensor.toFloat32())).toEqual(Array.from(after.slice(first * 8, (first + rows) * 8)))
    first += rows
    alone.dispose()
    part.dispose()
  }
  optimizer.dispose()
  fused.dispose()
})

test('embeddings, positions, heads and vectors take the step of AdamW', async () => {
  const names = ['token_embedding.weight', 'position_embedding.weight', 'head.weight', 'norm.weight', 'blocks.0.mlp.up.weight']
  const parameters = new Map(names.map((name) => [name, new Parameter(tensor(new Float32Array(8).fill(1), name === 'norm.weight' ? [8] : [2, 4]))]))
  const optimizer = new Muon([{ parameters }])
  for (const { tensor: t } of parameters.values()) t.grad = keep(tensor(new Float32Array(8).fill(1), t.shape))
  optimizer.step(0.1)
  const slots = Object.keys(await bitsOf(optimizer)).filter((key) => key.startsWith('momentum.'))
  expect(slots).toEqual(['momentum.blocks.0.mlp.up.weight'])
  optimizer.dispose()
})

test('skips, clips, copies and resumes exactly', () => expectContract((groups) => new Muon(groups)))
