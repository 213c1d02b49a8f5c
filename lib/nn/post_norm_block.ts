// One transformer layer as in the original paper and BERT: norm after each addition,
//   y = norm1(x + attention(x)), then norm2(y + mlp(y)).
// Source: Vaswani et al., arXiv 1706.03762. Without dropout both additions happen inside the products that feed them.
import { add } from '../ops/elementwise'
import type { Tensor } from '../tensor/tensor'
import { Attention, type AttentionInputs } from './attention'
import { Dropout } from './dropout'
import { LayerNorm } from './layer_norm'
import { MLP } from './mlp'
import { Module } from './module'
import type { TransformerBlockOptions } from './transformer_block'

export class PostNormBlock extends Module<[x: Tensor, inputs?: Omit<AttentionInputs, 'residual'>]> {
  attention: Attention
  norm1: LayerNorm
  mlp: MLP
  norm2: LayerNorm
  private readonly dropout: Dropout | null

  constructor(width: number, options: Omit<TransformerBlockOptions, 'norm'>) {
    super()
    const { device, dtype, generator, bias, residualInit, normEps: eps, activation } = options
    const common = { device, dtype, generator, bias }
    this.attention = new Attention(width, { ...options, outInit: residualInit })
    this.norm1 = new LayerNorm(width, { ...common, eps })
    this.mlp = new MLP(width, options.hidden ?? 4 * width, { ...common, activation, downInit: residualInit })
    this.norm2 = new LayerNorm(width, { ...common, eps })
    this.dropout = options.dropout ? new Dropout(options.dropout) : null
  }

  /** x [batch, tokens, width] -> the same shape. */
  forward(x: Tensor, inputs: Omit<AttentionInputs, 'residual'> = {}): Tensor {
    const { norm1, norm2, attention, mlp, dropout } = this
    if (dropout && this.training) {
      const y = norm1.call(add(x, dropout.call(attention.call(x, inputs))))
      return norm2.call(add(y, dropout.call(mlp.call(y))))
    }
    const y = norm1.call(attention.call(x, { ...inputs, residual: x }))
    return norm2.call(mlp.call(y, y))
  }
}
