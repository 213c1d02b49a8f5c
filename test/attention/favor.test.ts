// FAVOR+: features that are unbiased and as accurate as published, prefix sums equal to the masked quadratic form, gradients,
// no look ahead.
import { backward } from '../../lib/autograd/backward'
import { directionsLike, favorKernel, randomDirections, softmaxFeatures } from '../../lib/attention/favor'
import { mulScalar } from '../../lib/ops/elementwise'
import { featureAttention } from '../../lib/ops/feature_attention'
import { matmul } from '../../lib/ops/matmul'
import { zeros } from '../../lib/ops/creation'
import { rand, randn } from '../../lib/ops/random'
import { getDevice } from '../../lib/tensor/device'
import { Generator } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { setRequiresGrad, tensor, type Tensor } from '../../lib/tensor/tensor'
import { composedFavor } from '../support/composed_features'

// Globals are slow to reach from within jest.
const { abs, exp, sqrt } = Math
const [d, s] = [64, 256]
const scale = 1 / sqrt(d)

/** Mean L1 distance between rows of softmax attention and of its approximation. */
async function rowError(q: Tensor, k: Tensor, features: number, offset: number, { perRowKeys = false, orthogonal = true } = {}): Promise<number> {
  const directions = orthogonal
    ? randomDirections(features, d, { seed: 7, offset })
    : await scope(() => randn([features, d], { generator: new Generator(100 + offset), dtype: 'f64' })).toFloat64()
  const w = directionsLike(q, directions, features)
  const kernel = scope(() => matmul(softmaxFeatures(q, w, true, { scale }), softmaxFeatures(k, w, perRowKeys, { scale }), { transposeB: true }))
  const scores = scope(() => mulScalar(matmul(q, k, { transposeB: true }), scale))
  const [approximate, exact] = [await kernel.toFloat64(), await scores.toFloat64()]
  let sum = 0
  for (let i = 0; i < s; ++i) {
    let [total, seen] = [0, 0]
    for (let j = i * s; j < (i + 1) * s; ++j) {
      total += exact[j] = exp(exact[j])
      seen += approximate[j]
    }
    for (let j = i * s; j < (i + 1) * s; ++j) sum += abs(exact[j] / total - approximate[j] / seen)
  }
  return sum / s
}

const inputs = (deviation: number) => {
  const generator = new Generator(11)
  return [0, 1].map(() => scope(() => mulScalar(randn([1, 1, s, d], { generator }), deviation)))
}

test('row errors as published for 64 to 1024 features; one stabiliser for each key is caught', async () => {
  const [q, k] = inputs(0.5)
  for (const [features, published] of [[64, 0.34], [128, 0.27], [256, 0.22], [512, 0.17], [1024, 0.13]]) {
    expect(abs((await rowError(q, k, features, 0)) - published)).toBeLessThan(0.2 * published)
  }
  const right = await rowError(q, k, 256, 2)
  expect(await rowError(q, k, 256, 2, { perRowKeys: true })).toBeGreaterThan(1.5 * right)
})

test('directions that are not orthogonal are 5 to 15 % worse, on the mean of 12 draws', async () => {
  const [q, k] = inputs(0.5)
  const sums = { right: 0, other: 0 }
  for (let offset = 0; offset < 12; ++offset) {
    sums.right += await rowError(q, k, 256, offset)
    sums.other += await rowError(q, k, 256, offset, { orthogonal: false })
  }
  expect(sums.other / sums.right).toBeGreaterThan(1.05)
  expect(sums.other / sums.right).toBeLessThan(1.15)
})

test('work is linear in the length: that of 8192 tokens is 4 times that of 2048, where softmax needs 16', async () => {
  const device = getDevice('meta')
  const work = async (tokens: number) => {
    const [q, k, v] = [0, 1, 2].map(() => zeros([1, tokens, 1, d], { device: 'meta' }))
    const kernel = favorKernel((like) => directionsLike(like, randomDirections(128, d, { seed: 1, offset: 0 }), 128))
    const before = (await device.synchronize()).flops
    scope(() => void kernel(q, k, v, { heads: 1, causal: true }))
    const after = (await device.synchronize()).flops
    for (const each of [q, k, v]) each.dispose()
    return after - before
  }
  const ratio = (await work(8192)) / (await work(2048))
  expect(ratio).toBeGreaterThan(3.4)
  expect(ratio).toBeLessThan(4.6)
})

test('with queries and keys of unit variance it is unusable', async () => {
  const [q, k] = inputs(1)
  expect(abs((await rowError(q, k, 256, 0)) / 1.11 - 1)).toBeLessThan(0.2)
})

test('directions: orthogonal within a block, with the lengths of normal vectors', () => {
  const w = randomDirections(2 * d, d, { seed: 1, offset: 0 })
  const dot = (a: number, b: number) => {
    let sum = 0
    for (let i = 0; i < d; ++i) sum += w[a * d + i] * w[b * d + i]
    return sum
  }
  expect(abs(dot(0, 17))).toBeLessThan(1e-10)
  expect(abs(dot(d + 3, d + 40))).toBeLessThan(1e-10)
  let squares = 0
  for (let r = 0; r < 2 * d; ++r) squares += dot(r, r)
  expect(abs(squares / (2 * d) / d - 1)).toBeLessThan(0.1)
})

test('the kernel is unbiased: over 400 draws its mean is within 3 % of exp(q . k / sqrt(d))', () => {
  const [x, y] = [0, 1].map((n) => Float64Array.from({ length: 8 }, (_, i) => 0.3 * Math.sin(3 * i + n)))
  const root = 8 ** 0.25
  let sum = 0
  for (let draw = 0; draw < 400; ++draw) {
    const w = randomDirections(16, 8, { seed: 3, offset: draw })
    for (let r = 0; r < 16; ++r) {
      let exponent = 0
      for (let i = 0; i < 8; ++i) exponent += (w[r * 8 + i] * (x[i] + y[i])) / root - (x[i] ** 2 + y[i] ** 2) / 2 / root ** 2
      sum += exp(exponent) / 16
    }
  }
  const wanted = exp(x.reduce((total, v, i) => total + v * y[i], 0) / sqrt(8))
  expect(abs(sum / 400 / wanted - 1)).toBeLessThan(0.03)
})

/** The quotient by its definition. */
async function quadratic(phiQ: Tensor, phiK: Tensor, v: Tensor, causal: boolean): Promise<Float64Array> {
  const [, queries, , m] = phiQ.shape
  const [, keys, , width] = v.shape
  const [q, k, values] = await Promise.all([phiQ, phiK, v].map((x) => x.toFloat64()))
  const out = new Float64Array(queries * width)
  for (let i = 0; i < queries; ++i) {
    let total = 0
    for (let j = 0; j < keys; ++j) {
      if (causal && j > keys - queries + i) continue
      let weight = 0
      for (let r = 0; r < m; ++r) weight += q[i * m + r] * k[j * m + r]
      total += weight
      for (let c = 0; c < width; ++c) out[i * width + c] += weight * values[j * width + c]
    }
    for (let c = 0; c < width; ++c) out[i * width + c] /= total
  }
  return out
}

test.each([[150, 150, true], [3, 150, true], [150, 150, false], [5, 5, true]] as const)(
  'prefix sums, %i queries and %i keys, causal %s: the quadratic form to 2e-15',
  async (queries, keys, causal) => {
    const generator = new Generator(5)
    const make = (tokens: number, width: number) => rand([1, tokens, 1, width], { dtype: 'f64', generator })
    const [q, k, v] = [make(queries, 6), make(keys, 6), make(keys, 4)]
    const seen = await featureAttention(q, k, v, { causal }).toFloat64()
    const wanted = await quadratic(q, k, v, causal)
    expect(seen.reduce((most, x, i) => Math.max(most, abs(x - wanted[i])), 0)).toBeLessThan(getDevice().name === 'cpu' ? 2e-15 : 1e-13)
  },
)

test('gradients of the chunked sums against finite differences', async () => {
  const generator = new Generator(6)
  const leaves = [3, 3, 2].map((width) => setRequiresGrad(rand([1, 70, 1, width], { dtype: 'f64', generator })))
  const weights = rand([1, 70, 1, 2], { dtype: 'f64', generator })
  scope(() => backward(featureAttention(leaves[0], leaves[1], leaves[2], { causal: true }), weights))
  const w = await weights.toFloat64()
  for (const [n, leaf] of leaves.entries()) {
    const [grad, base] = [await leaf.grad!.toFloat64(), await leaf.toFloat64()]
    for (const at of [0, 7, base.length - 1]) {
      const value = async (h: number) => {
        const moved = tensor(base.map((x, i) => (i === at ? x + h : x)), leaf.shape, { dtype: 'f64' })
        const [q, k, v] = leaves.map((other, i) => (i === n ? moved : other.detach()))
        return (await featureAttention(q, k, v, { causal: true }).toFloat64()).reduce((sum, x, i) => sum + x * w[i], 0)
      }
      expect(abs(grad[at] - ((await value(1e-5)) - (await value(-1e-5))) / 2e-5)).toBeLessThan(1e-7)
    }
  }
})

test.each([true, false])('the fused kernel is the one composed of single operators, gradients too; causal %s', async (causal) => {
  const once = async (fused: boolean) => {
    const generator = new Generator(9)
    const leaves = [4, 2, 2].map((heads) => setRequiresGrad(scope(() => mulScalar(randn([2, 90, heads, 16], { generator, dtype: 'f64' }), 0.5))))
    const directions = (like: Tensor) => directionsLike(like, randomDirections(40, 16, { seed: 1, offset: 0 }), 40)
    const out = scope(() => {
      const y = (fused ? favorKernel : composedFavor)(directions, 0.01)(leaves[0], leaves[1], leaves[2], { heads: 4, kvHeads: 2, causal })
      backward(y, randn(y.shape, { generator, dtype: 'f64' }))
      return y
    })
    return Promise.all([out, ...leaves.map((leaf) => leaf.grad!)].map((x) => x.toFloat64()))
  }
  const [a, b] = [await once(true), await once(false)]
  for (const [i, x] of a.entries()) expect(x.reduce((most, value, at) => Math.max(most, abs(value - b[i][at])), 0)).toBeLessThan(1e-12)
})

test('later tokens change nothing, and what it cannot do is refused', async () => {
  const generator = new Generator(8)
  const [q, k, v] = [0, 1, 2].map(() => scope(() => mulScalar(randn([1, 90, 2, 16], { generator, dtype: 'f64' }), 0.5)))
  const kernel = favorKernel((like) => directionsLike(like, randomDirections(32, 16, { seed: 1, offset: 0 }), 32))
  const options = { heads: 2, causal: true }
  const whole = await kernel(q, k, v, options).toFloat64()
  const [ks, vs] = await Promise.all([k.toFloat64(), v.toFloat64()])
  const changed = (values: Float64Array) => tensor(values.map((x, i) => (i >= 80 * 32 ? 3 * x : x)), [1, 90, 2, 16], { dtype: 'f64' })
  const other = await kernel(q, changed(ks), changed(vs), options).toFloat64()
  for (let i = 0; i < 80 * 32; ++i) if (abs(whole[i] - other[i]) > 1e-9) throw new Error(`element ${i} saw a later token`)
  expect(() => kernel(q, k, v, { ...options, dropout: 0.1 })).toThrow(/dropout/)
})
