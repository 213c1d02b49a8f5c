// Attention by features against its definition and against the form composed of single operators, for every map.
import { backward } from '../../lib/autograd/backward'
import { featureAttention, type FeatureAttentionOptions } from '../../lib/ops/feature_attention'
import { cast } from '../../lib/ops/cast'
import { zeros } from '../../lib/ops/creation'
import { addScalar, exp, sub } from '../../lib/ops/elementwise'
import { permute } from '../../lib/ops/permute'
import { rand, randn } from '../../lib/ops/random'
import { reshape } from '../../lib/ops/reshape'
import { getDevice } from '../../lib/tensor/device'
import { Generator } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { setRequiresGrad, tensor, type Tensor } from '../../lib/tensor/tensor'
import { composedFeatures, eluFeatures } from '../support/composed_features'
import { testDevices } from '../support/devices'
import { awayFromZero, host, jestOnly, opCase, uniform, type HostTensor, type Rounding } from '../support/op_case'

// Globals are slow to reach from within jest.
const { abs, floor, max } = Math

type Attributes = Pick<FeatureAttentionOptions, 'causal' | 'map' | 'eps'>

/** Features of a row, rounded at each step. */
function features(x: HostTensor, shift: HostTensor | null, { map = 'none', eps = 0 }: Attributes, row: number, r: Rounding): number[] {
  const m = x.shape[3]
  return Array.from({ length: m }, (_, i) => {
    const value = x.data[row * m + i]
    if (map === 'elu') return value > 0 ? r(value + 1) : r(Math.exp(value))
    return map === 'exp' ? r(r(Math.exp(r(value - (shift ? shift.data[row] : 0)))) + eps) : value
  })
}

function reference([q, k, v, queryShift, keyShift]: (HostTensor | null)[], attrs: Attributes, r: Rounding): HostTensor {
  const [batch, queries, heads] = q!.shape
  const [, keys, kvHeads, m] = k!.shape
  const width = v!.shape[3]
  const out = new Float64Array(batch * queries * heads * width)
  const keyRows = Array.from({ length: batch * keys * kvHeads }, (_, row) => features(k!, keyShift, attrs, row, r))
  for (let row = 0; row < batch * queries * heads; ++row) {
    const [b, i, h] = [floor(row / heads / queries), floor(row / heads) % queries, row % heads]
    const phi = features(q!, queryShift, attrs, row, r)
    const end = attrs.causal ? i + 1 + keys - queries : keys
    const sums = new Float64Array(width)
    let total = 0
    for (let j = 0; j < end; ++j) {
      const at = (b * keys + j) * kvHeads + floor(h / (heads / kvHeads))
      let weight = 0
      for (let f = 0; f < m; ++f) weight = r(weight + r(phi[f] * keyRows[at][f]))
      total = r(total + weight)
      for (let c = 0; c < width; ++c) sums[c] = r(sums[c] + r(weight * v!.data[at * width + c]))
    }
    for (let c = 0; c < width; ++c) out[row * width + c] = total ? r(sums[c] / total) : 0
  }
  return host([batch, queries, heads, width], out)
}

/** queries, keys, heads, kvHeads, features, width, batch */
const inputs = (queries: number, keys = queries, heads = 1, kvHeads = heads, m = 4, width = 4, batch = 1) =>
  [[batch, queries, heads, m], [batch, keys, kvHeads, m], [batch, keys, kvHeads, width]]
const positive = ([q, k, v]: number[][]) => [{ shape: q, values: uniform(0.1, 1) }, { shape: k, values: uniform(0.1, 1) }, v]
/** The second derivative of elu jumps at 0. */
const apart = ([q, k, v]: number[][]) => [{ shape: q, values: awayFromZero() }, { shape: k, values: awayFromZero() }, v]
/** The shift of a query cancels but for eps, and with it the terms of its gradient: that is for f64, below. */
const shifts = ([q, k]: number[][]) => [{ shape: q.slice(0, 3), grad: false }, k.slice(0, 3)]
const sample = (sizes: number[][], attrs: Attributes) => ({
  inputs: attrs.map === 'exp' ? [...sizes, ...shifts(sizes)] : attrs.map === 'elu' ? apart(sizes) : positive(sizes),
  attrs,
})

opCase<Attributes>({
  name: 'featureAttention',
  ops: ['feature_attention', 'feature_attention_backward'],
  run: ([q, k, v, queryShift, keyShift], attrs) => featureAttention(q, k, v, { ...attrs, queryShift, keyShift }),
  reference,
  errorScale: 'tensor',
  samples: [
    sample(inputs(5, 5, 2, 1, 3, 4, 2), { map: 'none' }),
    // Rows beyond one chunk and one vector; groups of queries; fewer, and more, queries than keys.
    sample(inputs(66, 66, 2, 1, 3, 3), { map: 'none', causal: true }),
    sample(inputs(70, 70, 1, 1, 4, 4, 2), { map: 'elu', causal: true }),
    sample(inputs(7, 66, 4, 2, 3, 4), { map: 'elu' }),
    sample(inputs(10, 70, 1, 1, 3, 4), { map: 'exp', causal: true }),
    sample(inputs(6, 9, 1, 1, 70, 66), { map: 'exp', eps: 0.1 }),
    sample(inputs(5, 5, 1, 1, 130, 8), { map: 'exp', eps: 0.01, causal: true }),
    sample(inputs(1, 66), { map: 'elu', causal: true }),
    sample(inputs(9, 5, 2, 1), { map: 'elu', causal: true }),
    sample(inputs(0), { map: 'elu' }),
    sample(inputs(4, 0), { map: 'elu', causal: true }),
    sample(inputs(4, 0), { map: 'elu' }),
    sample(inputs(3, 3, 1, 1, 4, 0), { map: 'elu', causal: true }),
    sample(inputs(3, 3, 1, 1, 0, 4), { map: 'none' }),
  ],
  bench: [
    // Long rows of a simulated GPU take minutes.
    process.env.GPUSIM_HOME
      ? { ...sample(inputs(128, 128, 2, 2, 64, 32), { map: 'elu', causal: true }), label: '128 x 2 x 64, causal' }
      : { ...sample(inputs(1024, 1024, 2, 2, 256, 64), { map: 'exp', causal: true }), label: '1024 x 2, 256 features, width 64, causal' },
  ],
  errors: [
    { what: 'other features', call: () => featureAttention(zeros([1, 4, 1, 4]), zeros([1, 4, 1, 5]), zeros([1, 4, 1, 4])), code: 'ERR_SHAPE', text: ['k', '4 features'] },
    { what: 'other values than keys', call: () => featureAttention(zeros([1, 4, 1, 4]), zeros([1, 4, 1, 4]), zeros([1, 5, 1, 4])), code: 'ERR_SHAPE', text: ['v', 'k'] },
    { what: 'heads that do not group', call: () => featureAttention(zeros([1, 4, 3, 4]), zeros([1, 4, 2, 4]), zeros([1, 4, 2, 4])), code: 'ERR_SHAPE', text: ['3 heads', '2'] },
    { what: 'a shift without map=exp', call: () => featureAttention(zeros([1, 4, 1, 4]), zeros([1, 4, 1, 4]), zeros([1, 4, 1, 4]), { map: 'elu', keyShift: zeros([1, 4, 1]) }), code: 'ERR_ARGUMENT', text: ['k_shift', 'exp'] },
    { what: 'a shift of another shape', call: () => featureAttention(zeros([1, 4, 1, 4]), zeros([1, 4, 1, 4]), zeros([1, 4, 1, 4]), { map: 'exp', queryShift: zeros([1, 1, 4]) }), code: 'ERR_SHAPE', text: ['q_shift', '[1, 4, 1]'] },
    { what: 'a negative eps', call: () => featureAttention(zeros([1, 4, 1, 4]), zeros([1, 4, 1, 4]), zeros([1, 4, 1, 4]), { map: 'exp', eps: -1 }), code: 'ERR_ARGUMENT', text: ['eps', '-1'] },
  ],
})

jestOnly(() => {
  describe.each(testDevices().map((device) => [device.name, device] as const))('%s', (_, device) => {
    // Two stretches a head.
    const n = 270
    test.each([
      ['none', true], ['none', false], ['elu', true], ['elu', false], ['exp', true], ['exp', false],
    ] as const)('%s, causal %s: as composed of single operators, forwards and backwards in f64', async (map, causal) => {
      const once = async (fused: boolean) => {
        const generator = new Generator(3)
        const draw = map === 'none' ? rand : randn
        const leaves = scope(() => [
          ...[draw, draw, randn].map((of) => of([1, n, 2, 6], { generator, device, dtype: 'f64' })),
          ...[0, 1].map(() => randn([1, n, 2], { generator, device, dtype: 'f64' })),
        ])
        for (const x of leaves) setRequiresGrad(x)
        const [q, k, v, queryShift, keyShift] = leaves
        const given = map === 'exp' ? { queryShift, keyShift, eps: 0.1 } : {}
        const first = (x: Tensor) => permute(x, [0, 2, 1, 3])
        const phi = (x: Tensor, shift: Tensor) =>
          first(map === 'elu' ? eluFeatures(x) : map === 'none' ? x : addScalar(exp(sub(x, reshape(shift, [1, n, 2, 1]))), 0.1))
        const out = scope(() => {
          const y = fused ? featureAttention(q, k, v, { map, causal, ...given }) : first(composedFeatures(phi(q, queryShift), phi(k, keyShift), first(v), causal))
          backward(y, randn(y.shape, { generator: new Generator(9), device, dtype: 'f64' }))
          return y
        })
        return Promise.all([out, ...leaves.map((x) => x.grad).filter((x) => x !== null)].map((x) => x.toFloat64()))
      }
      const [a, b] = [await once(true), await once(false)]
      expect(a.length).toBe(map === 'exp' ? 6 : 4)
      for (const [i, values] of a.entries()) {
        const largest = b[i].reduce((most, x) => max(most, abs(x)), 0)
        const worst = values.reduce((most, x, at) => max(most, abs(x - b[i][at])), 0)
        expect(worst).toBeLessThan(1e-12 * max(1, largest))
      }
    })
  })

  // Several chunks, tiles and states of each format, which have kernels of their own: as in f64, from inputs that all formats hold.
  // What is far below the stabiliser and above its range in 16 bits must neither vanish nor overflow.
  describe.each(testDevices().map((device) => [device.name, device] as const))('%s', (_, device) => {
    test.each([
      ['exp', true, 136, 136, 72], ['exp', false, 70, 136, 72], ['elu', true, 70, 136, 72], ['none', true, 136, 80, 72],
      // Rows that are walked in segments.
      ['exp', true, 580, 580, 32], ['elu', false, 520, 580, 32],
    ] as const)('%s, causal %s, %i queries and %i keys, %i features: other formats as f64', async (map, causal, queries, keys, m) => {
      const width = m
      const once = async (dtype: 'f64' | 'f32' | 'f16' | 'bf16') => {
        const generator = new Generator(4)
        const draw = map === 'none' ? rand : randn
        const drawn = scope(() => [
          draw([1, queries, 2, m], { generator, dtype: 'bf16' }),
          addScalar(draw([1, keys, 1, m], { generator, dtype: 'bf16' }), map === 'exp' ? -12 : 0),
          randn([1, keys, 1, width], { generator, dtype: 'bf16' }),
          rand([1, queries, 2], { generator, dtype: 'bf16' }),
          rand([1, keys, 1], { generator, dtype: 'bf16' }),
        ])
        const leaves = await Promise.all(drawn.map(async (x) => tensor(await x.toFloat64(), x.shape, { device, dtype })))
        for (const x of leaves.slice(0, 3)) setRequiresGrad(x)
        const [q, k, v, queryShift, keyShift] = leaves
        const out = scope(() => {
          const y = featureAttention(q, k, v, { map, causal, ...(map === 'exp' ? { queryShift, keyShift } : {}) })
          backward(y, cast(randn(y.shape, { generator: new Generator(9), device, dtype: 'bf16' }), dtype))
          return y
        })
        return Promise.all([out, ...leaves.slice(0, 3).map((x) => x.grad!)].map((x) => x.toFloat64()))
      }
      const exact = await once('f64')
      for (const [dtype, bar] of [['f32', 4e-6], ['f16', 4e-3], ['bf16', 3e-2]] as const) {
        for (const [i, values] of (await once(dtype)).entries()) {
          const largest = exact[i].reduce((most, x) => max(most, abs(x)), 0)
          const worst = values.reduce((most, x, at) => max(most, abs(x - exact[i][at])), 0)
          expect(`${dtype} ${i}: ${worst / largest < bar ? 'close' : worst / largest}`).toBe(`${dtype} ${i}: close`)
        }
      }
    })
  })

  test('nothing of tokens x features x width: a step of 8192 tokens peaks below the inputs, the results and a few states', async () => {
    const device = getDevice('meta')
    const [tokens, m, width] = [8192, 256, 64]
    const leaves = [m, m, width].map((columns) => setRequiresGrad(zeros([1, tokens, 8, columns], { device })))
    await device.synchronize()
    device.resetPeak()
    const before = (await device.synchronize()).liveBytes
    scope(() => {
      const out = featureAttention(leaves[0], leaves[1], leaves[2], { map: 'exp', causal: true })
      backward(out, zeros(out.shape, { device }))
    })
    const peak = (await device.synchronize()).peakBytes - before
    const rows = tokens * 8 * 4
    // Gradients of q, k, v; out, its gradient and norm; two states a head.
    expect(peak).toBeLessThan(1.02 * rows * (2 * m + 3 * width + 1) + 2 * 8 * 4 * m * (width + 1))
    for (const x of leaves) x.dispose()
  })
})
