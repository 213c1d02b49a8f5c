// One pre-norm transformer layer: x + attention(norm(x)), then x + mlp(norm(x)). Without dropout both additions happen
// inside the products that feed them.
import { add } from '../ops/elementwise'
import type { Tensor } from '../tensor/tensor'
import { Attention, type AttentionInputs, type AttentionOptions } from './attention'
import { Dropout } from './dropout'
import { LayerNorm } from './layer_norm'
import { MLP, type MLPActivation } from './mlp'
import { Module } from './module'
import { RMSNorm } from './rms_norm'
import type { Initializer } from '../init/initializer'

export interface TransformerBlockOptions extends Omit<AttentionOptions, 'outInit'> {
  hidden?: number
  norm?: 'layer_norm' | 'rms_norm'
  activation?: MLPActivation
  /** For the last matrix of either branch. */
  residualInit?: Initializer
}

export class TransformerBlock extends Module<[x: Tensor, inputs?: Omit<AttentionInputs, 'residual'>]> {
  norm1: LayerNorm | RMSNorm
  attention: Attention
  norm2: LayerNorm | RMSNorm
  mlp: MLP
  private readonly dropout: Dropout | null

  constructor(width: number, options: TransformerBlockOptions) {
    super()
    const { device, dtype, generator, bias, residualInit } = options
    const common = { device, dtype, generator, bias }
    const norm = () => (options.norm === 'rms_norm' ? new RMSNorm(width, common) : new LayerNorm(width, common))
    this.norm1 = norm()
    this.attention = new Attention(width, { ...options, outInit: residualInit })
    this.norm2 = norm()
    this.mlp = new MLP(width, options.hidden ?? 4 * width, {
      ...common,
      activation: options.activation,
      downInit: residualInit,
    })
    this.dropout = options.dropout ? new Dropout(options.dropout) : null
  }

  /** x [batch, tokens, width] -> the same shape. */
  forward(x: Tensor, inputs: Omit<AttentionInputs, 'residual'> = {}): Tensor {
    const { norm1, norm2, attention, mlp, dropout } = this
    if (dropout && this.training) {
      const y = add(x, dropout.call(attention.call(norm1.call(x), inputs)))
      return add(y, dropout.call(mlp.call(norm2.call(y))))
    }
    const y = attention.call(norm1.call(x), { ...inputs, residual: x })
    return mlp.call(norm2.call(y), y)
  }
}
