// Multi-head self-attention: one product for queries, keys and values, attention, one product back, with the residual
// added inside the last one. Grouped queries, sliding window, rotary and ALiBi positions, packed samples, key-value cache.
import { checkpoint } from '../autograd/checkpoint'
import { remakesCheap } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import type { Initializer } from '../init/initializer'
import type { AttentionKernel } from '../attention/kernels'
import { attention, packedAttention, type AttentionOptions as AttentionKernelOptions } from '../ops/attention'
import { split } from '../ops/concat'
import { rotary } from '../ops/rotary'
import { slice, writeSlice } from '../ops/slice'
import { reshape } from '../ops/reshape'
import type { Tensor } from '../tensor/tensor'
import { Linear } from './linear'
import { Module, type ModuleOptions } from './module'
import type { KeyValueCache } from './key_value_cache'
import type { Prefix } from './prefix'

export interface AttentionOptions extends ModuleOptions {
  heads: number
  /** Key and value heads, fewer for grouped queries; default: heads. */
  kvHeads?: number
  bias?: boolean
  /** Of queries, keys and values alone; default: bias. */
  qkvBias?: boolean
  causal?: boolean
  window?: number
  dropout?: number
  /** Rotary positions with this base (10000 as a rule). */
  rotaryBase?: number
  /** f32 [heads], from alibiSlopes(). Not a parameter. */
  slopes?: Tensor | null
  /** Factor of the scores; default 1 / sqrt(head width). */
  scale?: number
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
  /** Set by techniques; null: softmax attention. */
  kernel: AttentionKernel | null = null
  /** Sees queries, keys and values, [batch, tokens, (heads + 2 kvHeads) * headWidth], before they are used. */
  watch: ((qkv: Tensor, options: AttentionKernelOptions) => void) | null = null
  /** Set by prefix tuning: keys and values before all others. */
  prefix: Prefix | null = null
  readonly heads: number
  readonly kvHeads: number
  readonly headWidth: number
  protected readonly options: AttentionOptions

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
    this.heads = heads
    this.kvHeads = kvHeads
    this.headWidth = width / heads
    const common = { device: options.device, dtype: options.dtype, generator: options.generator, bias: options.bias }
    this.qkv = new Linear(width, (heads + 2 * kvHeads) * this.headWidth, { ...common, bias: options.qkvBias ?? options.bias })
    this.qkv.weight.parts = [heads, kvHeads, kvHeads].map((count) => count * this.headWidth)
    this.out = new Linear(width, width, { ...common, init: options.outInit })
  }

  /** Keeps these heads, with their rows of queries, keys and values and their columns of the output. The others are gone. */
  keepHeads(kept: readonly number[]): void {
    const { heads, headWidth } = this
    if (this.kvHeads !== heads || this.options.slopes || this.constructor !== Attention) {
      throw new LeanformerError('ERR_ARGUMENT', 'Attention: heads can be taken from plain attention alone', 'not with grouped queries, ALiBi or gated positions')
    }
    if (!kept.length || kept.some((head) => !(head >= 0 && head < heads))) {
      throw new LeanformerError('ERR_ARGUMENT', `Attention: heads ${kept.join(', ')} of ${heads}`, 'give at least one, counted from 0')
    }
    const places = (head: number) => Array.from({ length: headWidth }, (_, i) => head * headWidth + i)
    this.qkv.keepOutputs([0, 1, 2].flatMap((part) => kept.flatMap((head) => places(part * heads + head))))
    this.out.keepInputs(kept.flatMap(places))
    const fewer = { heads: kept.length, kvHeads: kept.length }
    Object.assign(this, fewer, { options: { ...this.options, ...fewer } })
    this.qkv.weight.parts = [0, 1, 2].map(() => kept.length * headWidth)
  }

  /** x [batch, tokens, width] -> the same shape. */
  forward(x: Tensor, inputs: AttentionInputs = {}): Tensor {
    const { heads, causal = true, window, slopes, scale, rotaryBase } = this.options
    const { residual, segments, positions, cache } = inputs
    let qkv = this.qkv.call(x)
    if (rotaryBase) {
      qkv = rotary(qkv, { heads, kvHeads: this.kvHeads, base: rotaryBase, positions, offset: (cache?.length ?? 0) + (this.prefix?.length ?? 0) })
    }
    const options: AttentionKernelOptions = {
      heads,
      kvHeads: this.kvHeads,
      causal,
      window,
      slopes,
      scale,
      segments,
      dropout: this.training ? (this.options.dropout ?? 0) : 0,
    }
    this.watch?.(qkv, options)
    return this.out.call(this.mix(qkv, cache ?? null, options), residual)
  }

  /** qkv [batch, tokens, (heads + 2 kvHeads) * headWidth] -> [batch, tokens, heads * headWidth]. */
  protected mix(qkv: Tensor, cache: KeyValueCache | null, options: AttentionKernelOptions): Tensor {
    if (!cache && !this.kernel && !this.prefix) return packedAttention(qkv, options)
    if (this.prefix && (options.segments || options.slopes)) {
      throw new LeanformerError('ERR_ARGUMENT', 'Attention: a prefix has no segment and no ALiBi distance', 'leave packed samples and padding, or prefix tuning, out')
    }
    const [batch, tokens] = qkv.shape
    const { q, k, v } = this.splitHeads(qkv)
    const past = cache ? this.remember(cache, k, v) : null
    let out: Tensor
    if (this.kernel || this.prefix) {
      const own = past ? seen(past, cache!.length) : ([k, v] as const)
      const attend = this.kernel ?? attention
      const settings = past ? { ...options, segments: null } : options
      const inputs = [q, ...(this.prefix ? this.prefix.call(...own) : own)] as const
      // A kernel that is composed of operators keeps its scores.
      const again = this.kernel && remakesCheap()
      out = again ? checkpoint((...qkv) => attend(...(qkv as [Tensor, Tensor, Tensor]), settings), inputs) : attend(...inputs, settings)
    } else out = attention(q, past!.keys, past!.values, { ...options, segments: null, kvLength: cache!.length })
    return reshape(out, [batch, tokens, this.heads * this.headWidth])
  }

  /** q [batch, tokens, heads, headWidth], k and v [batch, tokens, kvHeads, headWidth]. */
  splitHeads(qkv: Tensor): { q: Tensor; k: Tensor; v: Tensor } {
    const [batch, tokens] = qkv.shape
    const counts = [this.heads, this.kvHeads, this.kvHeads]
    const parts = split(qkv, counts.map((count) => count * this.headWidth), 2)
    const [q, k, v] = parts.map((part, i) => reshape(part, [batch, tokens, counts[i], this.headWidth]))
    return { q, k, v }
  }

  /** Adds the new keys and values to the cache, and gives all of it. */
  protected remember(cache: KeyValueCache, k: Tensor, v: Tensor): { keys: Tensor; values: Tensor } {
    const [batch, tokens] = k.shape
    const past = cache.reserve(batch, tokens, this.kvHeads, this.headWidth, k)
    writeSlice(past.keys, k, [0, cache.length, 0, 0])
    writeSlice(past.values, v, [0, cache.length, 0, 0])
    cache.length += tokens
    return past
  }
}

/** The part of a cache that is filled. */
export function seen({ keys, values }: { keys: Tensor; values: Tensor }, length: number): [keys: Tensor, values: Tensor] {
  const [batch, , heads, width] = keys.shape
  const part = (x: Tensor) => slice(x, [0, 0, 0, 0], [batch, length, heads, width])
  return [part(keys), part(values)]
}
