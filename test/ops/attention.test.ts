// Attention with all its masks, from separate and from packed queries, keys and values.
import { attention, packedAttention, type AttentionOptions } from '../../lib/ops/attention'
import { zeros } from '../../lib/ops/creation'
import { Generator } from '../../lib/tensor/random'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { host, integers, opCase, type HostTensor, type InputSpec, type Rounding } from '../support/op_case'
import { philoxUniform } from '../support/philox'

type Attributes = Pick<AttentionOptions, 'heads' | 'kvHeads' | 'causal' | 'window' | 'scale' | 'kvLength' | 'dropout'> & {
  /** ALiBi, f32 whatever the tested format. */
  alibi?: number[]
}

interface Masks {
  keyMask: HostTensor | null
  segments: HostTensor | null
}

/** q [batch, queries, heads, width], k and v [batch, keys, kvHeads, width]. */
function reference(q: HostTensor, k: HostTensor, v: HostTensor, masks: Masks, attrs: Attributes, r: Rounding): HostTensor {
  const [batch, queries, heads, width] = q.shape
  const [, keys, kvHeads] = k.shape
  const { causal = false, window = 0, dropout = 0 } = attrs
  const scale = attrs.scale || 1 / Math.sqrt(width)
  const length = attrs.kvLength || keys
  const out = new Float64Array(q.data.length)
  for (let b = 0; b < batch; ++b) {
    for (let h = 0; h < heads; ++h) {
      const g = Math.floor(h / (heads / kvHeads))
      for (let i = 0; i < queries; ++i) {
        const position = length - queries + i
        const scores: number[] = []
        for (let j = 0; j < length; ++j) {
          let s = 0
          for (let d = 0; d < width; ++d) {
            const x = r(q.data[((b * queries + i) * heads + h) * width + d] * r(scale))
            s = r(s + r(x * k.data[((b * keys + j) * kvHeads + g) * width + d]))
          }
          if (attrs.alibi) s = r(s - r(attrs.alibi[h] * Math.abs(position - j)))
          const hidden =
            (causal && j > position) ||
            (window > 0 && Math.abs(position - j) >= window) ||
            (masks.keyMask && !masks.keyMask.data[b * keys + j]) ||
            (masks.segments && masks.segments.data[b * keys + j] !== masks.segments.data[b * keys + i])
          scores.push(hidden ? -Infinity : s)
        }
        const highest = Math.max(...scores)
        const exps = scores.map((s) => (s === -Infinity ? 0 : r(Math.exp(r(s - highest)))))
        const sum = exps.reduce((a, c) => r(a + c), 0)
        for (let d = 0; d < width; ++d) {
          let t = 0
          for (let j = 0; j < length; ++j) {
            const e = ((b * heads + h) * queries + i) * keys + j
            const kept = dropout === 0 ? 1 : philoxUniform(5, 0, e) >= dropout ? r(1 / (1 - dropout)) : 0
            t = r(t + r(r(exps[j] * kept) * v.data[((b * keys + j) * kvHeads + g) * width + d]))
          }
          out[((b * queries + i) * heads + h) * width + d] = sum > 0 ? r(t / sum) : 0
        }
      }
    }
  }
  return host(q.shape, out)
}

const maskOf = (batch: number, keys: number): InputSpec => ({ shape: [batch, keys], dtype: 'bool', values: (random) => (random.uniform(0, 1) < 0.7 ? 1 : 0) })
const segmentsOf = (batch: number, keys: number): InputSpec => ({ shape: [batch, keys], dtype: 'i32', values: integers(0, 3) })

const withGenerator = ({ alibi, ...attrs }: Attributes, { device }: Tensor): AttentionOptions => ({
  ...attrs,
  generator: new Generator(5),
  slopes: alibi ? tensor(alibi, null, { device }) : null,
})

opCase<Attributes>({
  name: 'attention',
  ops: ['attention', 'attention_backward'],
  run: ([q, k, v, keyMask, segments], attrs) => attention(q, k, v, { ...withGenerator(attrs, q), keyMask, segments }),
  reference: ([q, k, v, keyMask, segments], attrs, r) => reference(q, k, v, { keyMask, segments }, attrs, r),
  errorScale: 'tensor',
  samples: [
    { inputs: [[2, 5, 2, 4], [2, 7, 2, 4], [2, 7, 2, 4], null, null], attrs: { heads: 2 } },
    { inputs: [[1, 9, 4, 3], [1, 9, 2, 3], [1, 9, 2, 3], null, null], attrs: { heads: 4, kvHeads: 2, causal: true } },
    { inputs: [[1, 70, 1, 8], [1, 70, 1, 8], [1, 70, 1, 8], null, null], attrs: { heads: 1, causal: true, window: 5 } },
    { inputs: [[1, 6, 1, 4], [1, 6, 1, 4], [1, 6, 1, 4], null, null], attrs: { heads: 1, window: 2, scale: 0.3 } },
    { inputs: [[2, 6, 2, 4], [2, 6, 2, 4], [2, 6, 2, 4], maskOf(2, 6), null], attrs: { heads: 2 } },
    { inputs: [[2, 8, 2, 4], [2, 8, 2, 4], [2, 8, 2, 4], maskOf(2, 8), segmentsOf(2, 8)], attrs: { heads: 2, causal: true, alibi: [0.25, 0.5] } },
    // Nothing is seen at all.
    { inputs: [[1, 2, 1, 4], [1, 2, 1, 4], [1, 2, 1, 4], { shape: [1, 2], dtype: 'bool', values: [0, 0] }, null], attrs: { heads: 1 } },
    { inputs: [[1, 2, 2, 4], [1, 9, 2, 4], [1, 9, 2, 4], null, null], attrs: { heads: 2, causal: true, kvLength: 6, alibi: [0.125, 0.5] } },
    { inputs: [[1, 5, 2, 4], [1, 5, 2, 4], [1, 5, 2, 4], null, null], attrs: { heads: 2, causal: true, dropout: 0.3 } },
    { inputs: [[0, 3, 1, 4], [0, 3, 1, 4], [0, 3, 1, 4], null, null], attrs: { heads: 1 } },
  ],
  gradTolerance: { bf16: 0.06, f16: 0.02 },
  bench: [{ inputs: [[8, 256, 6, 64], [8, 256, 6, 64], [8, 256, 6, 64], null, null], attrs: { heads: 6, causal: true } }],
  errors: [
    { what: 'heads that do not divide', call: () => attention(zeros([1, 2, 3, 4]), zeros([1, 2, 2, 4]), zeros([1, 2, 2, 4]), { heads: 3, kvHeads: 2 }), code: 'ERR_ARGUMENT', text: ['heads (3)', 'kv_heads (2)'] },
    { what: 'keys of another width', call: () => attention(zeros([1, 2, 2, 4]), zeros([1, 2, 2, 5]), zeros([1, 2, 2, 5]), { heads: 2 }), code: 'ERR_SHAPE', text: ['[1, 2, 2, 4]', '[1, 2, 2, 5]'] },
    { what: 'a mask of another size', call: () => attention(zeros([1, 2, 2, 4]), zeros([1, 2, 2, 4]), zeros([1, 2, 2, 4]), { heads: 2, keyMask: zeros([1, 3], { dtype: 'bool' }) }), code: 'ERR_SHAPE', text: ['key_mask', '[1, 3]'] },
  ],
})

/** One of the three parts of a packed tensor. */
function part(x: HostTensor, first: number, count: number, width: number): HostTensor {
  const [batch, tokens, total] = x.shape
  return host([batch, tokens, count, width], (i) => x.data[Math.floor(i / (count * width)) * total + first * width + (i % (count * width))])
}

opCase<Attributes>({
  name: 'packedAttention',
  ops: ['attention', 'attention_backward'],
  run: ([qkv], attrs) => packedAttention(qkv, withGenerator(attrs, qkv)),
  reference: ([qkv], attrs, r) => {
    const { heads, kvHeads = heads } = attrs
    const width = qkv.shape[2] / (heads + 2 * kvHeads)
    const [q, k, v] = [part(qkv, 0, heads, width), part(qkv, heads, kvHeads, width), part(qkv, heads + kvHeads, kvHeads, width)]
    const out = reference(q, k, v, { keyMask: null, segments: null }, attrs, r)
    return host([qkv.shape[0], qkv.shape[1], heads * width], out.data)
  },
  errorScale: 'tensor',
  samples: [
    { inputs: [[2, 6, 24]], attrs: { heads: 2, causal: true } },
    { inputs: [[1, 5, 40]], attrs: { heads: 4, kvHeads: 2, causal: true } },
    { inputs: [[1, 130, 9]], attrs: { heads: 1, causal: true } },
  ],
  gradTolerance: { bf16: 0.06, f16: 0.02 },
  bench: [
    { inputs: [[8, 256, 1152]], attrs: { heads: 6, causal: true } },
    { inputs: [[12, 64, 384]], attrs: { heads: 4, causal: true } },
  ],
})
