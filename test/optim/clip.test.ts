// clipGradNorm: the norm over all gradients, the factor, the flag.
import { clipGradNorm } from '../../lib/ops/clip'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'

async function clip(grads: number[][], options = {}, dtype: 'f32' | 'f64' = 'f32') {
  const { norm, clip: out } = scope(() => clipGradNorm(grads.map((g) => tensor(g, null, { dtype })), options))
  const [factor, skip] = await out.toFloat64()
  return { norm: await norm.item(), factor, skip }
}

test('the factor is min(1, maxNorm / (norm + 1e-6))', async () => {
  const { norm, factor, skip } = await clip([[3], [0, 4]], { maxNorm: 1 }, 'f64')
  expect(norm).toBe(5)
  expect(factor).toBeCloseTo(1 / (5 + 1e-6), 14)
  expect(skip).toBe(0)
})

test('the norm after clipping is the limit, to 1e-6', async () => {
  for (const size of [1, 1e3, 1e-2]) {
    const grads = [[3 * size], [0, 4 * size]]
    const { factor } = await clip(grads, { maxNorm: 0.5 * size }, 'f64')
    const after = Math.hypot(...grads.flat().map((g) => factor * g))
    expect(after).toBeLessThanOrEqual(0.5 * size * (1 + 1e-6))
    expect(after).toBeGreaterThan(0.5 * size * (1 - 1e-3))
  }
})

test('below the limit, and without one, nothing is scaled', async () => {
  expect((await clip([[3], [4]], { maxNorm: 6 })).factor).toBe(1)
  expect((await clip([[3], [4]], { maxNorm: 0 })).factor).toBe(1)
})

test('a loss scale is undone before clipping', async () => {
  const { norm, factor } = await clip([[3, 4]], { maxNorm: 10, unscale: 0.5 }, 'f64')
  expect([norm, factor]).toEqual([5, 0.5])
  expect((await clip([[3, 4]], { maxNorm: 1, unscale: 0.5 }, 'f64')).factor).toBeCloseTo(0.5 / (2.5 + 1e-6), 14)
})

test('a gradient that is not finite raises the flag', async () => {
  expect(await clip([[1], [Infinity]])).toMatchObject({ skip: 1 })
  expect(await clip([[NaN], [1]])).toMatchObject({ skip: 1, norm: NaN })
})

test('many numbers in f32 keep seven digits', async () => {
  const values = Array.from({ length: 100_001 }, (_, i) => Math.sin(i))
  const exact = Math.sqrt(values.map(Math.fround).reduce((sum, x) => sum + x * x, 0))
  expect(Math.abs((await clip([values, [0.5]], { maxNorm: 0 })).norm / Math.hypot(exact, 0.5) - 1)).toBeLessThan(1e-7)
})
