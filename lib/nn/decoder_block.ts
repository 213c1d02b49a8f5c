// One layer of the decoder of an encoder-decoder: causal attention, attention to the memory, feed-forward; each a branch
//   x + f(norm(x))  (pre-norm)  or  norm(x + f(x))  (post-norm, the original).
// Source: Vaswani et al., arXiv 1706.03762.
import { add } from '../ops/elementwise'
import type { Tensor } from '../tensor/tensor'
import { Attention } from './attention'
import { CrossAttention } from './cross_attention'
import { Dropout } from './dropout'
import { LayerNorm } from './layer_norm'
import { MLP } from './mlp'
import { Module } from './module'
import type { TransformerBlockOptions } from './transformer_block'

export interface DecoderBlockOptions extends Omit<TransformerBlockOptions, 'norm' | 'attention'> {
  /** Where the norms stand, or none at all. */
  norm: 'pre' | 'post' | 'none'
}

export class DecoderBlock extends Module<[x: Tensor, memory: Tensor, memoryMask?: Tensor | null]> {
  attention: Attention
  norm1: LayerNorm | null
  cross: CrossAttention
  norm2: LayerNorm | null
  mlp: MLP
  norm3: LayerNorm | null
  private readonly preNorm: boolean
  private readonly dropout: Dropout | null

  constructor(width: number, options: DecoderBlockOptions) {
    super()
    const { device, dtype, generator, bias, residualInit, normEps: eps, activation, dropout } = options
    const common = { device, dtype, generator, bias }
    const norm = () => (options.norm === 'none' ? null : new LayerNorm(width, { ...common, eps }))
    this.attention = new Attention(width, { ...options, causal: true, outInit: residualInit })
    this.norm1 = norm()
    this.cross = new CrossAttention(width, { ...options, outInit: residualInit })
    this.norm2 = norm()
    this.mlp = new MLP(width, options.hidden ?? 4 * width, { ...common, activation, downInit: residualInit })
    this.norm3 = norm()
    this.preNorm = options.norm === 'pre'
    this.dropout = dropout ? new Dropout(dropout) : null
  }

  /** x [batch, tokens, width], memory [batch, memory tokens, width] -> like x. */
  forward(x: Tensor, memory: Tensor, memoryMask?: Tensor | null): Tensor {
    const a = this.branch(x, this.norm1, (h, residual) => this.attention.call(h, { residual }))
    const b = this.branch(a, this.norm2, (h, residual) => this.cross.call(h, memory, { residual, memoryMask }))
    return this.branch(b, this.norm3, (h, residual) => this.mlp.call(h, residual))
  }

  private branch(x: Tensor, norm: LayerNorm | null, f: (h: Tensor, residual: Tensor | null) => Tensor): Tensor {
    const dropout = this.training ? this.dropout : null
    const h = norm && this.preNorm ? norm.call(x) : x
    const y = dropout ? add(x, dropout.call(f(h, null))) : f(h, x)
    return norm && !this.preNorm ? norm.call(y) : y
  }
}
