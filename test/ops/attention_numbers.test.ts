// Attention by its published bars: errors at lengths beside whole tiles and beside those of attention that stores its scores in
// f16, scores of 1e4, results over disjoint keys put together, bytes linear in the length.
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { attention } from '../../lib/ops/attention'
import { cast } from '../../lib/ops/cast'
import { zeros } from '../../lib/ops/creation'
import { mulScalar } from '../../lib/ops/elementwise'
import { matmul } from '../../lib/ops/matmul'
import { permute } from '../../lib/ops/permute'
import { randn } from '../../lib/ops/random'
import { sum } from '../../lib/ops/reductions'
import { slice } from '../../lib/ops/slice'
import { softmax } from '../../lib/ops/softmax'
import { getDevice } from '../../lib/tensor/device'
import { Generator } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { run, setRequiresGrad, type Tensor } from '../../lib/tensor/tensor'

const width = 16
const normal = (tokens: number, seed: number, factor = 1) =>
  noGrad(() => scope(() => cast(cast(mulScalar(randn([1, tokens, 1, width], { generator: new Generator(seed) }), factor), 'f16'), 'f64')))

/** All scores in f64. */
function dense(q: Tensor, k: Tensor, v: Tensor): Tensor {
  const first = (x: Tensor) => permute(x, [0, 2, 1, 3])
  const weights = softmax(mulScalar(matmul(first(q), first(k), { transposeB: true }), 1 / Math.sqrt(width)))
  return permute(matmul(weights, first(v)), [0, 2, 1, 3])
}

/** The result and the gradients of q, k and v. */
async function withGradients(inputs: readonly Tensor[], attend: (q: Tensor, k: Tensor, v: Tensor) => Tensor): Promise<Float64Array[]> {
  const leaves = inputs.map((x) => setRequiresGrad(x))
  const out = scope(() => {
    const result = attend(leaves[0], leaves[1], leaves[2])
    backward(result, cast(normal(result.shape[1], 9), result.dtype))
    return result.detach()
  })
  return Promise.all([out, ...leaves.map((leaf) => leaf.grad!)].map((x) => x.toFloat64()))
}
const furthest = (a: Float64Array, b: Float64Array) => a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0)

test.each([1, 17, 127, 128, 129, 4097])('%i tokens of normal numbers: f16 within 1e-3 of all scores in f64, f32 within 1e-5, and so the gradients', async (tokens) => {
  // Of the longest, some queries alone.
  const inputs = [normal(Math.min(tokens, 129), 1), normal(tokens, 2), normal(tokens, 3)]
  const exact = await withGradients(inputs, dense)
  for (const [dtype, bound] of [['f32', 1e-5], ['f16', 1e-3]] as const) {
    const own = await withGradients(inputs.map((x) => noGrad(() => cast(x.detach(), dtype))), (q, k, v) => attention(q, k, v, { heads: 1 }))
    expect(furthest(own[0], exact[0])).toBeLessThan(bound)
    for (const [i, grad] of own.entries()) expect([i, furthest(grad, exact[i]) < 2 * bound * Math.max(1, ...exact[i].map(Math.abs))]).toEqual([i, true])
    if (dtype === 'f32') continue
    const stored = await withGradients(inputs.map((x) => noGrad(() => cast(x.detach(), dtype))), dense)
    for (const [i, each] of own.entries()) expect([i, furthest(each, exact[i]) <= 2 * furthest(stored[i], exact[i]) + 1e-6]).toEqual([i, true])
  }
})

test('scores of 1e4 give what all scores in f64 give, and finite gradients', async () => {
  const inputs = [normal(65, 1, 100), normal(65, 2, 100), normal(65, 3)]
  const exact = await withGradients(inputs, dense)
  const own = await withGradients(inputs.map((x) => noGrad(() => cast(x.detach(), 'f32'))), (q, k, v) => attention(q, k, v, { heads: 1 }))
  const scores = await noGrad(() => matmul(inputs[0].viewAs([65, width]), inputs[1].viewAs([65, width]), { transposeB: true })).toFloat64()
  expect(Math.max(...scores.map(Math.abs)) / Math.sqrt(width)).toBeGreaterThan(1e4)
  expect(furthest(own[0], exact[0])).toBeLessThan(1e-2)
  for (const grad of own) expect(grad.every(Number.isFinite)).toBe(true)
})

test('results over two halves of the keys, put together by their sums, are those over all', async () => {
  const [q, k, v] = [1, 2, 3].map((from) => noGrad(() => cast(normal(70, from), 'f32')))
  const over = (from: number, to: number) =>
    noGrad(() => run('attention', [q, slice(k, [0, from, 0, 0], [1, to, 1, width]), slice(v, [0, from, 0, 0], [1, to, 1, width]), null, null, null], {
      heads: 1, kv_heads: 1, causal: false, window: 0, scale: 0, dropout: 0, seed: 0, offset: 0, kv_length: 0,
    }))
  const parts = await Promise.all([over(0, 29), over(29, 70), over(0, 70)].flat().map((x) => x.toFloat64()))
  const [left, leftSum, right, rightSum, whole, wholeSum] = parts
  const bound = getDevice().name === 'cpu' ? 1e-6 : 1e-5
  wholeSum.forEach((wanted, i) => {
    const together = Math.log(Math.exp(leftSum[i]) + Math.exp(rightSum[i]))
    expect(Math.abs(together - wanted)).toBeLessThan(bound * Math.max(1, Math.abs(wanted)))
    for (let c = i * width; c < (i + 1) * width; ++c) {
      const merged = Math.exp(leftSum[i] - together) * left[c] + Math.exp(rightSum[i] - together) * right[c]
      expect(Math.abs(merged - whole[c])).toBeLessThan(bound)
    }
  })
})

test('bytes, backwards too, grow with the length and not with its square', async () => {
  const device = getDevice('meta')
  const peak = async (tokens: number) => {
    const leaves = [0, 1, 2].map(() => setRequiresGrad(zeros([1, tokens, 1, width], { device })))
    const before = (await device.synchronize()).liveBytes
    device.resetPeak()
    scope(() => backward(sum(attention(leaves[0], leaves[1], leaves[2], { heads: 1 }))))
    const { peakBytes } = await device.synchronize()
    for (const leaf of leaves) {
      leaf.grad!.dispose()
      leaf.dispose()
    }
    return peakBytes - before
  }
  expect((await peak(8192)) / (await peak(4096))).toBeLessThan(2.1)
})
