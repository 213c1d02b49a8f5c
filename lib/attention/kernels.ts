// Ways to attend that a model's layers can be given, see Attention.kernel; and what they all need: heads before tokens,
// grouped keys repeated, options they cannot honour refused.
import { LeanformerError } from '../native/errors'
import { attention, type AttentionOptions } from '../ops/attention'
import { blockLayout, blockSparseAttention, type BlockLayout, type Pattern } from '../ops/block_sparse_attention'
import { expand } from '../ops/broadcast'
import { permute } from '../ops/permute'
import { reshape } from '../ops/reshape'
import type { Tensor } from '../tensor/tensor'

/**
 * A way to attend: q [batch, queries, heads, width], k and v [batch, keys, kvHeads, width] -> like q. The last query stands at
 * the last key.
 */
export type AttentionKernel = (q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) => Tensor

/** Refuses what a kernel cannot do. @throws ERR_OPTION */
export function refuse(kernel: string, options: AttentionOptions, names: readonly ('window' | 'slopes' | 'segments' | 'keyMask' | 'dropout')[]): void {
  for (const name of names) {
    if (options[name]) throw new LeanformerError('ERR_OPTION', `${kernel}: it has no ${name}`, `train without ${name === 'slopes' ? 'ALiBi' : name}`)
  }
}

/** [batch, tokens, kvHeads, width] -> [batch, heads, tokens, width]. */
export function headsFirst(x: Tensor, heads: number): Tensor {
  const [batch, tokens, own, width] = x.shape
  const turned = permute(x, [0, 2, 1, 3])
  if (own === heads) return turned
  const group = heads / own
  return reshape(expand(reshape(turned, [batch, own, 1, tokens, width]), [batch, own, group, tokens, width]), [batch, heads, tokens, width])
}

/** [batch, heads, tokens, width] -> [batch, tokens, heads, width]. */
export const tokensFirst = (x: Tensor) => permute(x, [0, 2, 1, 3])

/** Plain softmax attention. */
export const softmaxKernel: AttentionKernel = (q, k, v, options) => attention(q, k, v, options)

/** Softmax attention to the nearest `window` keys. */
export function windowKernel(window: number): AttentionKernel {
  return (q, k, v, options) => attention(q, k, v, { ...options, window: options.window ? Math.min(options.window, window) : window })
}

/** Softmax attention over the blocks of a pattern, which must be causal where the model is. Layouts are made once a size. */
export function blockSparseKernel(pattern: Pattern, block: number): AttentionKernel {
  const layouts = new Map<string, BlockLayout>()
  return (q, k, v, options) => {
    refuse('block_sparse', options, ['window', 'slopes', 'segments', 'keyMask', 'dropout'])
    const sizes = { queries: q.shape[1], keys: k.shape[1], block }
    const key = `${sizes.queries}/${sizes.keys}`
    let layout = layouts.get(key)
    if (!layout) layouts.set(key, (layout = blockLayout(pattern, sizes)))
    return blockSparseAttention(q, k, v, layout, { heads: options.heads, kvHeads: options.kvHeads, scale: options.scale })
  }
}
