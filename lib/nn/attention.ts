// Multi-head self-attention: one product for queries, keys and values, attention, one product back, with the residual
// added inside the last one. Grouped queries, sliding window, rotary and ALiBi positions, packed samples, key-value cache.
import { LeanformerError } from '../native/errors'
import type { Initializer } from '../init/initializer'
import { attention, packedAttention } from '../ops/attention'
import { rotary } from '../ops/rotary'
import { slice, writeSlice } from '../ops/slice'
import { reshape } from '../ops/reshape'
import type { Tensor } from '../tensor/tensor'
import { Linear } from './linear'
import { Module, type ModuleOptions } from './module'
import type { KeyValueCache } from './key_value_cache'

export interface AttentionOptions extends ModuleOptions {
  heads: number
  /** Key and value heads, fewer for grouped queries; default: heads. */
  kvHeads?: number
  bias?: boolean
  causal?: boolean
  window?: number
  dropout?: number
  /** Rotary positions with this base (10000 as a rule). */
  rotaryBase?: number
  /** f32 [heads], from alibiSlopes(). Not a parameter. */
  slopes?: Tensor | null
  outInit?: Initializer
}

/** What varies from call to call. */
export interface AttentionInputs {
  /** Added to the result. */
  residual?: Tensor | null
  /** i32 [batch, tokens]: segment of each token; padding is -1. */
  segments?: Tensor | null
  /** i32 [batch, tokens]: position of each token, for rotary; default 0, 1, ... */
  positions?: Tensor | null
  /** Keys and values of earlier tokens; the new ones are added to it. */
  cache?: KeyValueCache | null
}

export class Attention extends Module<[x: Tensor, inputs?: AttentionInputs]> {
  qkv: Linear
  out: Linear
  private readonly options: AttentionOptions
  private readonly kvHeads: number
  private readonly headWidth: number

  constructor(width: number, options: AttentionOptions) {
    super()
    const { heads, kvHeads = heads } = options
    if (width % heads !== 0 || heads % kvHeads !== 0) {
      throw new LeanformerError(
        'ERR_ARGUMENT',
        `Attention: width ${width}, heads ${heads}, kvHeads ${kvHeads} do not divide`,
        'width must be a multiple of heads, and heads of kvHeads',
      )
    }
    this.options = options
    this.kvHeads = kvHeads
    this.headWidth = width / heads
    const common = { device: options.device, dtype: options.dtype, generator: options.generator, bias: options.bias }
    this.qkv = new Linear(width, (heads + 2 * kvHeads) * this.headWidth, common)
    this.out = new Linear(width, width, { ...common, init: options.outInit })
  }

  /** x [batch, tokens, width] -> the same shape. */
  forward(x: Tensor, inputs: AttentionInputs = {}): Tensor {
    const { heads, causal = true, window, slopes, rotaryBase } = this.options
    const { residual, segments, positions, cache } = inputs
    let qkv = this.qkv.call(x)
    if (rotaryBase) {
      qkv = rotary(qkv, { heads, kvHeads: this.kvHeads, base: rotaryBase, positions, offset: cache?.length ?? 0 })
    }
    const options = {
      heads,
      kvHeads: this.kvHeads,
      causal,
      window,
      slopes,
      segments,
      dropout: this.training ? (this.options.dropout ?? 0) : 0,
    }
    const mixed = cache ? this.attendCached(qkv, cache, options) : packedAttention(qkv, options)
    return this.out.call(mixed, residual)
  }

  private attendCached(qkv: Tensor, cache: KeyValueCache, options: Parameters<typeof attention>[3]): Tensor {
    const { heads } = this.options
    const [batch, tokens] = qkv.shape
    const d = this.headWidth
    const part = (first: number, count: number) =>
      reshape(slice(qkv, [0, 0, first * d], [batch, tokens, (first + count) * d]), [batch, tokens, count, d])
    const { keys, values } = cache.reserve(batch, tokens, this.kvHeads, d, qkv)
    writeSlice(keys, part(heads, this.kvHeads), [0, cache.length, 0, 0])
    writeSlice(values, part(heads + this.kvHeads, this.kvHeads), [0, cache.length, 0, 0])
    cache.length += tokens
    const out = attention(part(0, heads), keys, values, { ...options, segments: null, kvLength: cache.length })
    return reshape(out, [batch, tokens, heads * d])
  }
}
