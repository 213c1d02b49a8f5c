// Layer normalisation: y = (x - mean) / sqrt(variance + eps) * weight + bias over the last axis.
import { ones, zeros } from '../ops/creation'
import { layerNorm } from '../ops/layer_norm'
import type { Tensor } from '../tensor/tensor'
import { Module, type ModuleOptions } from './module'
import { Parameter } from './parameter'

export interface LayerNormOptions extends ModuleOptions {
  bias?: boolean
  eps?: number
}

export class LayerNorm extends Module {
  weight: Parameter
  bias: Parameter | null
  private readonly eps: number

  constructor(width: number, options: LayerNormOptions = {}) {
    super()
    this.eps = options.eps ?? 1e-5
    this.weight = new Parameter(ones([width], options))
    this.bias = options.bias === false ? null : new Parameter(zeros([width], options))
  }

  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight.value, this.bias?.value, this.eps)
  }
}
