// Attention by features from single operators, which the fused operator is held against: chunk by chunk with all features, all
// chunks' states and z as one more column of v. Source: Katharopoulos et al., arXiv 2006.16236.
import { softmaxFeatures } from '../../lib/attention/favor'
import { headsFirst, tokensFirst, type AttentionKernel } from '../../lib/attention/kernels'
import { concat } from '../../lib/ops/concat'
import { add, div, exp, mul, neg, relu } from '../../lib/ops/elementwise'
import { ones, zeros } from '../../lib/ops/creation'
import { matmul } from '../../lib/ops/matmul'
import { reshape } from '../../lib/ops/reshape'
import { slice } from '../../lib/ops/slice'
import { cumsum } from '../../lib/ops/sort'
import { tensor, type Tensor } from '../../lib/tensor/tensor'

const kChunk = 64

/** elu(x) + 1 = max(x, 0) + exp(min(x, 0)). */
export function eluFeatures(x: Tensor): Tensor {
  return add(relu(x), exp(neg(relu(neg(x)))))
}

/** Rows of zeros up to `length` on the axis before the last: at its beginning, or at its end. */
function lengthen(x: Tensor, length: number, atEnd: boolean): Tensor {
  const missing = length - x.shape[2]
  if (missing === 0) return x
  const [batch, heads, , width] = x.shape
  const rest = zeros([batch, heads, missing, width], { device: x.device, dtype: x.dtype })
  return concat(atEnd ? [x, rest] : [rest, x], 2)
}

/**
 * phiQ [batch, heads, queries, features], phiK [batch, heads, keys, features], v [batch, heads, keys, width] ->
 * [batch, heads, queries, width]. Features are not negative. The last query stands at the last key.
 */
export function composedFeatures(phiQ: Tensor, phiK: Tensor, v: Tensor, causal: boolean): Tensor {
  const [batch, heads, queries] = phiQ.shape
  const [, , keys, width] = v.shape
  const withOnes = concat([v, ones([batch, heads, keys, 1], { device: v.device, dtype: v.dtype })], 3)
  const sums = causal ? causalSums(phiQ, phiK, withOnes) : matmul(phiQ, matmul(phiK, withOnes, { transposeA: true }))
  const upper = (from: number, to: number) => slice(sums, [0, 0, 0, from], [batch, heads, queries, to])
  return div(upper(0, width), upper(width, width + 1))
}

function causalSums(phiQ: Tensor, phiK: Tensor, v: Tensor): Tensor {
  const [batch, heads, queries, features] = phiQ.shape
  const [, , keys, width] = v.shape
  const chunks = Math.ceil(keys / kChunk)
  const length = chunks * kChunk
  const cut = (x: Tensor) => reshape(lengthen(x, length, true), [batch, heads, chunks, kChunk, x.shape[3]])
  const [q, k, values] = [lengthen(phiQ, keys, false), phiK, v].map(cut)
  const mask = tensor(
    Float32Array.from({ length: kChunk * kChunk }, (_, at) => (at % kChunk <= Math.floor(at / kChunk) ? 1 : 0)),
    [kChunk, kChunk],
    { device: v.device, dtype: v.dtype },
  )
  const inside = matmul(mul(matmul(q, k, { transposeB: true }), mask), values)
  let sums = inside
  if (chunks > 1) {
    const own = matmul(k, values, { transposeA: true })
    const before = slice(cumsum(own, 2), [0, 0, 0, 0, 0], [batch, heads, chunks - 1, features, width])
    const none = zeros([batch, heads, 1, features, width], { device: v.device, dtype: v.dtype })
    sums = add(inside, matmul(q, concat([none, before], 2)))
  }
  return slice(reshape(sums, [batch, heads, length, width]), [0, 0, keys - queries, 0], [batch, heads, keys, width])
}

/** lib/techniques/linear_attention.ts's kernel from single operators. */
export const composedLinear: AttentionKernel = (q, k, v, { heads, causal = false }) => {
  const features = (x: Tensor) => eluFeatures(headsFirst(x, heads))
  return tokensFirst(composedFeatures(features(q), features(k), headsFirst(v, heads), causal))
}

/** favorKernel() of lib/attention/favor.ts from single operators. */
export function composedFavor(directions: (like: Tensor) => Tensor, eps = 0): AttentionKernel {
  return (q, k, v, { heads, causal = false, scale: given }) => {
    const scale = given || 1 / Math.sqrt(q.shape[3])
    const w = directions(q)
    const features = (x: Tensor, query: boolean) => softmaxFeatures(headsFirst(x, heads), w, query, { scale, eps: causal ? 0 : eps })
    return tokensFirst(composedFeatures(features(q, true), features(k, false), headsFirst(v, heads), causal))
  }
}
