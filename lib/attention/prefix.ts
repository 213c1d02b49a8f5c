// Attention by features: out_i = phi(q_i)^T S_i / (phi(q_i) . z_i) with S_i = sum_j phi(k_j) v_j^T and z_i = sum_j phi(k_j), over
// all keys or over those up to i. Causal sums go chunk by chunk: inside a chunk a masked product, across chunks running
// sums, in the gradient as well, so time and memory are linear in the length. z comes along as one more column of v.
// Source: Katharopoulos et al., arXiv 2006.16236; the sums as in Choromanski et al., arXiv 2009.14794.
import { concat } from '../ops/concat'
import { add, div, mul } from '../ops/elementwise'
import { ones, zeros } from '../ops/creation'
import { matmul } from '../ops/matmul'
import { reshape } from '../ops/reshape'
import { slice } from '../ops/slice'
import { cumsum } from '../ops/sort'
import { tensor, type Tensor } from '../tensor/tensor'

const kChunk = 64

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
export function featureAttention(phiQ: Tensor, phiK: Tensor, v: Tensor, causal: boolean): Tensor {
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
