// Attention, dense and over blocks, with wide heads over several tiles of queries and keys, on every device and in every format, against f64 on the
// CPU: what the small samples of attention.test.ts cannot reach.
import { bigbird, causal, custom, local, localCausal, longformer, strided } from '../../lib/attention/patterns'
import { backward } from '../../lib/autograd/backward'
import { attention, packedAttention, type AttentionOptions } from '../../lib/ops/attention'
import { blockLayout, blockSparseAttention, type Pattern } from '../../lib/ops/block_sparse_attention'
import { type DType } from '../../lib/native/dtype'
import { getDevice, type Device } from '../../lib/tensor/device'
import { Generator } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { testDevices } from '../support/devices'
import { jestOnly, integers, type InputSpec } from '../support/op_case'
import { prepare, toDevice, type Prepared } from '../support/samples'
import { expectNear } from '../support/tolerance'

interface Case {
  batch?: number
  queries: number
  keys?: number
  width: number
  packed?: boolean
  mask?: boolean
  segments?: boolean
  alibi?: boolean
  attrs: Omit<AttentionOptions, 'generator' | 'keyMask' | 'segments' | 'slopes'>
}

const cases: Case[] = [
  { queries: 100, width: 32, attrs: { heads: 2, causal: true } },
  { queries: 70, keys: 150, width: 64, attrs: { heads: 2, kvHeads: 1 } },
  { batch: 2, queries: 132, width: 64, packed: true, attrs: { heads: 2, causal: true, dropout: 0.2 } },
  { queries: 150, width: 64, attrs: { heads: 1, causal: true, window: 40 } },
  { queries: 90, width: 48, attrs: { heads: 1, window: 20, dropout: 0.1 } },
  { queries: 70, width: 128, segments: true, alibi: true, attrs: { heads: 2, kvHeads: 1, causal: true } },
  { queries: 33, keys: 97, width: 96, mask: true, attrs: { heads: 1, kvLength: 81, causal: true } },
  { queries: 68, width: 256, packed: true, attrs: { heads: 1, causal: true, dropout: 0.3 } },
  { queries: 20, keys: 35, width: 200, mask: true, attrs: { heads: 1 } },
  { queries: 40, width: 37, packed: true, attrs: { heads: 2, kvHeads: 1, causal: true } },
  { queries: 5, width: 300, attrs: { heads: 1, causal: true } },
]

// The largest error of an element, against the largest element. Sums of rounded products: the formats' units.
const allowed: Partial<Record<DType, number>> = { f32: 4e-6, f16: 4e-3, bf16: 3e-2, f64: 1e-12 }

function inputsOf({ batch = 1, queries, keys = queries, width, packed, mask, segments, attrs }: Case): (InputSpec | null)[] {
  const { heads, kvHeads = heads } = attrs
  const kv = [batch, keys, kvHeads, width]
  return [
    packed ? [batch, queries, (heads + 2 * kvHeads) * width] : [batch, queries, heads, width],
    packed ? null : kv,
    packed ? null : kv,
    mask ? { shape: [batch, keys], dtype: 'bool', values: (random) => (random.uniform(0, 1) < 0.7 ? 1 : 0) } : null,
    segments ? { shape: [batch, keys], dtype: 'i32', values: integers(0, 3) } : null,
    packed ? [batch, queries, heads * width] : [batch, queries, heads, width],
  ]
}

/** The result, then the gradients. */
async function results(at: Case, given: (Prepared | null)[], device: Device, dtype: DType): Promise<Float64Array[]> {
  const moved = given.map((x, i) => x && toDevice(x, device, i === 3 || i === 4 ? x.dtype : dtype, i < 3))
  const [q, k, v, keyMask, segments, seed] = moved as Tensor[]
  const options = { ...at.attrs, generator: new Generator(11), keyMask, segments }
  const out = scope(() => {
    const slopes = at.alibi ? tensor(Array.from({ length: at.attrs.heads }, (_, h) => 0.1 * 2 ** -h), null, { device }) : null
    const y = at.packed ? packedAttention(q, { ...options, slopes }) : attention(q, k, v, { ...options, slopes })
    backward(y, seed)
    return y
  })
  const found = [await out.toFloat64()]
  for (const x of moved) if (x?.grad) found.push(await x.grad.toFloat64())
  for (const x of moved) {
    x?.grad?.dispose()
    x?.dispose()
  }
  out.dispose()
  return found
}

jestOnly(() => {
  describe('attention with wide heads', () => {
    for (const device of testDevices()) {
      test.each(['f32', 'f16', 'bf16', 'f64'] as const)(`${device.name} %s`, async (dtype) => {
        for (const [i, at] of cases.entries()) {
          const given = prepare(`wide attention/${i}`, inputsOf(at) as InputSpec[], dtype)
          const wanted = await results(at, given, getDevice('cpu'), 'f64')
          const found = await results(at, given, device, dtype)
          expect(found).toHaveLength(wanted.length)
          found.forEach((values, k) => expectNear(`${dtype} case ${i} ${k ? `gradient ${k - 1}` : 'result'}`, values, wanted[k], allowed[dtype]!))
          const again = await results(at, given, device, dtype)
          expect(again).toEqual(found)
        }
      }, 240_000) // a simulated device is slow
    }
  })
})

// Blocks narrower and wider than the tiles of a device's kernels, patterns of one head and of several, grouped queries.
const layouts: { tokens: number; keys?: number; width: number; block: number; heads: number; kvHeads?: number; scale?: number; pattern: Pattern }[] = [
  { tokens: 140, width: 64, block: 16, heads: 2, kvHeads: 1, pattern: causal(bigbird({ block: 16, random: 1, heads: 2 })) },
  { tokens: 150, width: 32, block: 32, heads: 1, pattern: longformer(12, [1], [3]) },
  { tokens: 100, keys: 170, width: 64, block: 64, heads: 2, pattern: localCausal(40) },
  { tokens: 200, width: 128, block: 128, heads: 2, kvHeads: 1, pattern: strided(24, 2) },
  { tokens: 96, width: 40, block: 32, heads: 1, pattern: custom([[[true, false, false], [false, false, false], [true, false, true]]], 32) },
  { tokens: 41, keys: 75, width: 64, block: 32, heads: 2, scale: -0.1, pattern: local(20) },
  { tokens: 300, width: 6, block: 128, heads: 2, pattern: localCausal(50) },
]

describe('block-sparse attention with wide heads', () => {
  for (const device of testDevices()) {
    test.each(['f32', 'bf16', 'f64'] as const)(`${device.name} %s`, async (dtype) => {
      for (const [i, { tokens, keys = tokens, width, block, heads, kvHeads = heads, scale, pattern }] of layouts.entries()) {
        const kv = [1, keys, kvHeads, width]
        const given = prepare(`wide sparse attention/${i}`, [[1, tokens, heads, width], kv, kv, [1, tokens, heads, width]], dtype)
        const compute = async (on: Device, format: DType) => {
          const [q, k, v, seed] = given.map((x, n) => toDevice(x!, on, format, n < 3))
          const layout = blockLayout(pattern, { queries: tokens, keys, block })
          const out = scope(() => {
            const y = blockSparseAttention(q, k, v, layout, { heads, kvHeads, scale })
            backward(y, seed)
            return y
          })
          const found = await Promise.all([out, q.grad!, k.grad!, v.grad!].map((x) => x.toFloat64()))
          for (const x of [out, q.grad!, k.grad!, v.grad!, q, k, v, seed]) x.dispose()
          layout.dispose()
          return found
        }
        const wanted = await compute(getDevice('cpu'), 'f64')
        const found = await compute(device, dtype)
        found.forEach((values, n) => expectNear(`${dtype} layout ${i} ${n ? `gradient ${n - 1}` : 'result'}`, values, wanted[n], allowed[dtype]!))
      }
    }, 240_000)
  }
})
