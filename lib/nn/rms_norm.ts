// Root-mean-square normalisation: y = x / sqrt(mean(x^2) + eps) * weight over the last axis. Zhang and Sennrich 2019.
import { ones } from '../ops/creation'
import { rmsNorm } from '../ops/rms_norm'
import type { Tensor } from '../tensor/tensor'
import { Module, type ModuleOptions } from './module'
import { Parameter } from './parameter'

export interface RMSNormOptions extends ModuleOptions {
  eps?: number
}

export class RMSNorm extends Module {
  weight: Parameter
  private readonly eps: number

  constructor(width: number, options: RMSNormOptions = {}) {
    super()
    this.eps = options.eps ?? 1e-5
    this.weight = new Parameter(ones([width], options))
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight.value, this.eps)
  }
}
