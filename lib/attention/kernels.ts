// Ways to attend that a model's layers can be given, see Attention.kernel; and what they all need: heads before tokens,
// grouped keys repeated, options they cannot honour refused.
import { LeanformerError } from '../native/errors'
import { attention, type AttentionOptions } from '../ops/attention'
import { blockLayout, blockSparseAttention, type BlockLayout, type Pattern } from '../ops/block_sparse_attention'
import { csrAttention, csrLayout, type CsrLayout } from '../ops/csr_attention'
import { expand } from '../ops/broadcast'
import { permute } from '../ops/permute'
import { reshape } from '../ops/reshape'
import type { Tensor } from '../tensor/tensor'
import { forecastPattern, type AttentionForecast } from './crossover'

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
export function blockSparseKernel(pattern: Pattern, block: number, layouts = new Map<string, BlockLayout>()): AttentionKernel {
  return (q, k, v, options) => {
    refuse('block_sparse', options, ['window', 'slopes', 'segments', 'keyMask', 'dropout'])
    const sizes = { queries: q.shape[1], keys: k.shape[1], block }
    const key = `${sizes.queries}/${sizes.keys}`
    let layout = layouts.get(key)
    if (!layout) layouts.set(key, (layout = blockLayout(pattern, sizes)))
    return blockSparseAttention(q, k, v, layout, { heads: options.heads, kvHeads: options.kvHeads, scale: options.scale })
  }
}

/** Softmax attention over the pairs of a pattern, which must be causal where the model is. Layouts are made once a size. */
export function csrKernel(pattern: Pattern, block: number, layouts = new Map<string, CsrLayout>()): AttentionKernel {
  return (q, k, v, options) => {
    refuse('csr_attention', options, ['window', 'slopes', 'dropout'])
    const sizes = { queries: q.shape[1], keys: k.shape[1] }
    const key = `${sizes.queries}/${sizes.keys}`
    let layout = layouts.get(key)
    if (!layout) layouts.set(key, (layout = csrLayout(pattern, sizes, block)))
    const { heads, kvHeads, scale, keyMask, segments } = options
    return csrAttention(q, k, v, layout, { heads, kvHeads, scale, keyMask, segments })
  }
}

/**
 * The same attention over the pairs of a pattern by blocks or by a list, whichever is forecast to take less time on the device;
 * packed samples and padding go by the list. `note` is told the forecast once a size.
 */
export function sparseKernel(pattern: Pattern, block: number, note: (forecast: AttentionForecast) => void): AttentionKernel {
  const chosen = new Map<string, AttentionKernel>()
  const [blocks, lists] = [new Map<string, BlockLayout>(), new Map<string, CsrLayout>()]
  const [byBlocks, byList] = [blockSparseKernel(pattern, block, blocks), csrKernel(pattern, block, lists)]
  return (q, k, v, options) => {
    if (options.segments || options.keyMask) return byList(q, k, v, options)
    const [batch, queries, heads, width] = q.shape
    const key = `${queries}/${k.shape[1]}`
    let kernel = chosen.get(key)
    if (!kernel) {
      const causal = options.causal ?? false
      const forecast = forecastPattern(pattern, { queries, keys: k.shape[1], block }, { device: q.device, dtype: q.dtype, batch, heads, width, causal })
      note(forecast)
      blocks.set(key, forecast.blocks)
      lists.set(key, forecast.csr)
      chosen.set(key, (kernel = forecast.seconds.csr < forecast.seconds.block_sparse ? byList : byBlocks))
    }
    return kernel(q, k, v, options)
  }
}
