// Attention by features: out_i = phi(q_i)^T S_i / (phi(q_i) . z_i) with S_i = sum_j phi(k_j) v_j^T and z_i = sum_j phi(k_j), over
// all keys or over those up to i. The sums run along the tokens, forwards and in the gradient, so time and memory are linear in
// the length; the features are made while rows are read and never stored.
// Source: Katharopoulos et al., arXiv 2006.16236; the sums as in Choromanski et al., arXiv 2009.14794.
import { record } from '../autograd/tape'
import { run, run1, type Tensor } from '../tensor/tensor'

export interface FeatureAttentionOptions {
  /** A query sees no later key. The last query stands at the last key. */
  causal?: boolean
  /** phi(x): x itself, which must not be negative; elu(x) + 1; or exp(x - shift) + eps. Default: none. */
  map?: 'none' | 'elu' | 'exp'
  /** Of map=exp. */
  eps?: number
  /** Of map=exp: [batch, queries, heads]; default 0. */
  queryShift?: Tensor | null
  /** Of map=exp: [batch, keys, kvHeads]; default 0. */
  keyShift?: Tensor | null
}

/**
 * q [batch, queries, heads, features], k [batch, keys, kvHeads, features], v [batch, keys, kvHeads, width] ->
 * [batch, queries, heads, width]. A query that sees no key, or whose weights are all 0, gives zeros. f32, f16, bf16 (computed in
 * f32) and f64.
 * @throws ERR_SHAPE, ERR_DTYPE, ERR_ARGUMENT
 */
export function featureAttention(q: Tensor, k: Tensor, v: Tensor, options: FeatureAttentionOptions = {}): Tensor {
  const attrs = { causal: options.causal ?? false, map: options.map ?? 'none', eps: options.eps ?? 0 }
  const shifts = [options.queryShift ?? null, options.keyShift ?? null]
  const [out, norm] = run('feature_attention', [q, k, v, ...shifts], attrs)
  record('feature_attention', [q, k, v, ...shifts], [out], [q, k, v, out, norm, ...shifts], ([grad], saved, context) => {
    const g = grad!.dtype === saved[0].dtype ? grad! : run1('cast', [grad!], { dtype: saved[0].dtype })
    const grads = run('feature_attention_backward', [g, ...saved], attrs)
    // Every feature of a row falls with its shift.
    const shiftGrads = [3, 4].map((i) =>
      context.needs(i) ? run1('scale', [run1('sum', [grads[i - 3]], { axes: [3], keepdims: false })], { factor: -1, offset: 0 }) : null,
    )
    return [...grads, ...shiftGrads]
  })
  return out
}
