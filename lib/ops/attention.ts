// Scaled dot-product attention, FlashAttention style: the [queries, keys] scores are never stored.
//   out = softmax(q k^T * scale + bias, over visible keys) v
// Source: Dao, FlashAttention-2, arXiv 2307.08691; ALiBi: Press et al., arXiv 2108.12409.
import { record, recording } from '../autograd/tape'
import { defaultGenerator, type Generator } from '../tensor/random'
import { run, type Tensor } from '../tensor/tensor'

export interface AttentionOptions {
  heads: number
  /** Key and value heads; fewer than `heads` for grouped queries. Default: heads. */
  kvHeads?: number
  /** A query sees no later key. The last query stands at the last key. */
  causal?: boolean
  /** A query sees only keys nearer than this many positions; 0 for all. */
  window?: number
  /** Factor of the scores; default 1 / sqrt(head width). */
  scale?: number
  /** Probability of dropping an attention weight. */
  dropout?: number
  generator?: Generator
  /** bool [batch, keys]: false for padding, which nobody sees. */
  keyMask?: Tensor | null
  /** i32 [batch, tokens]: tokens see only their own segment (packed samples). */
  segments?: Tensor | null
  /** f32 [heads]: ALiBi, subtracts slope * distance from the scores. */
  slopes?: Tensor | null
  /** Only the first so many keys count; 0 for all. For a key-value cache with room to spare. */
  kvLength?: number
}

function attributes(options: AttentionOptions) {
  const dropout = options.dropout ?? 0
  const block = dropout > 0 ? (options.generator ?? defaultGenerator).next() : { seed: 0, offset: 0 }
  return {
    heads: options.heads,
    kv_heads: options.kvHeads ?? options.heads,
    causal: options.causal ?? false,
    window: options.window ?? 0,
    scale: options.scale ?? 0,
    dropout,
    seed: block.seed,
    offset: block.offset,
    kv_length: options.kvLength ?? 0,
  }
}

function attend(q: Tensor, k: Tensor | null, v: Tensor | null, options: AttentionOptions): Tensor {
  const attrs = attributes(options)
  const masks = [options.keyMask ?? null, options.segments ?? null, options.slopes ?? null]
  const [out, lse] = run('attention', [q, k, v, ...masks], attrs)
  if (recording([q, k, v])) {
    record('attention', [q, k, v], [out], [q, k, v, out, lse, ...masks], ([grad], saved) => {
      const [q_, k_, v_, out_, lse_, ...masks_] = saved
      return run('attention_backward', [grad, q_, k_, v_, out_, lse_, ...masks_], attrs)
    })
  }
  return out
}

/**
 * q [batch, queries, heads, width], k and v [batch, keys, kvHeads, width] -> [batch, queries, heads, width]. A query that
 * sees no key gives zeros. f32, f16, bf16 (computed in f32) and f64.
 * @throws ERR_SHAPE, ERR_DTYPE, ERR_ARGUMENT
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor {
  return attend(q, k, v, options)
}

/**
 * The same from one tensor: qkv [batch, tokens, (heads + 2 kvHeads) * width] holds all query heads, then all key heads,
 * then all value heads. -> [batch, tokens, heads * width]. Saves splitting the result of one product, and its gradient.
 * @throws ERR_SHAPE, ERR_DTYPE, ERR_ARGUMENT
 */
export function packedAttention(qkv: Tensor, options: AttentionOptions): Tensor {
  return attend(qkv, null, null, options)
}
