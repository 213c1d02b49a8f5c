// Attention of one sequence to another: queries from x, keys and values from the memory.
// Source: Vaswani et al., arXiv 1706.03762.
import { LeanformerError } from '../native/errors'
import { attention } from '../ops/attention'
import { split } from '../ops/concat'
import { reshape } from '../ops/reshape'
import type { Tensor } from '../tensor/tensor'
import type { AttentionOptions } from './attention'
import { Linear } from './linear'
import { Module } from './module'

/** What varies from call to call. */
export interface CrossAttentionInputs {
  /** Added to the result. */
  residual?: Tensor | null
  /** bool [batch, memory tokens]: false for padding, which nobody sees. */
  memoryMask?: Tensor | null
}

export class CrossAttention extends Module<[x: Tensor, memory: Tensor, inputs?: CrossAttentionInputs]> {
  q: Linear
  /** [2 width, width]: keys' rows first. */
  kv: Linear
  out: Linear
  readonly heads: number
  private readonly dropout: number

  constructor(width: number, { heads, bias, dropout = 0, outInit, device, dtype, generator }: AttentionOptions) {
    super()
    if (width % heads !== 0) {
      throw new LeanformerError('ERR_ARGUMENT', `CrossAttention: width ${width} is not a multiple of heads ${heads}`)
    }
    const common = { device, dtype, generator, bias }
    this.heads = heads
    this.dropout = dropout
    this.q = new Linear(width, width, common)
    this.kv = new Linear(width, 2 * width, common)
    this.out = new Linear(width, width, { ...common, init: outInit })
  }

  /** x [batch, tokens, width], memory [batch, memory tokens, width] -> like x. */
  forward(x: Tensor, memory: Tensor, { residual, memoryMask }: CrossAttentionInputs = {}): Tensor {
    const { heads } = this
    const [batch, tokens, width] = x.shape
    const asHeads = (part: Tensor) => reshape(part, [batch, part.shape[1], heads, width / heads])
    const [k, v] = split(this.kv.call(memory), width, 2)
    const options = { heads, keyMask: memoryMask, dropout: this.training ? this.dropout : 0 }
    const mixed = attention(asHeads(this.q.call(x)), asHeads(k), asHeads(v), options)
    return this.out.call(reshape(mixed, [batch, tokens, width]), residual)
  }
}
