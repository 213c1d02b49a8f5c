// Fully connected layer: y = x W^T + b.
import { gpt2Normal } from '../init/gpt2'
import { zeros } from '../ops/creation'
import type { Initializer } from '../init/initializer'
import { linear } from '../ops/linear'
import type { Tensor } from '../tensor/tensor'
import { Module, type ModuleOptions } from './module'
import { Parameter } from './parameter'

export interface LinearOptions extends ModuleOptions {
  bias?: boolean
  /** How the weight starts; default normal with standard deviation 0.02. The bias starts at 0. */
  init?: Initializer
}

export class Linear extends Module<[x: Tensor, residual?: Tensor | null]> {
  weight: Parameter
  bias: Parameter | null

  constructor(inFeatures: number, outFeatures: number, options: LinearOptions = {}) {
    super()
    this.weight = new Parameter((options.init ?? gpt2Normal())([outFeatures, inFeatures], options))
    this.bias = options.bias === false ? null : new Parameter(zeros([outFeatures], options))
  }

  /** x [..., in] -> [..., out], plus `residual` [..., out] where given. */
  forward(x: Tensor, residual?: Tensor | null): Tensor {
    return linear(x, this.weight.value, this.bias?.value, residual)
  }
}
