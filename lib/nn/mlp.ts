// The feed-forward half of a transformer block: up, activation, down; or the gated form down(silu(gate x) * up x).
// Source of SwiGLU: Shazeer, arXiv 2002.05202.
import type { Initializer } from '../init/initializer'
import { feedForward } from '../ops/linear'
import { swiglu } from '../ops/swiglu'
import type { Tensor } from '../tensor/tensor'
import { Linear } from './linear'
import { Module, type ModuleOptions } from './module'

export type MLPActivation = 'gelu' | 'gelu_exact' | 'relu' | 'silu' | 'swiglu'

export interface MLPOptions extends ModuleOptions {
  activation?: MLPActivation
  bias?: boolean
  downInit?: Initializer
}

export class MLP extends Module<[x: Tensor, residual?: Tensor | null]> {
  /** [hidden, width]; for swiglu [2 hidden, width], the gate's rows first. */
  up: Linear
  down: Linear
  private readonly activation: MLPActivation

  constructor(width: number, hidden: number, options: MLPOptions = {}) {
    super()
    this.activation = options.activation ?? 'gelu'
    const common = { device: options.device, dtype: options.dtype, generator: options.generator, bias: options.bias }
    this.up = new Linear(width, this.activation === 'swiglu' ? 2 * hidden : hidden, common)
    this.down = new Linear(hidden, width, { ...common, init: options.downInit })
  }

  forward(x: Tensor, residual?: Tensor | null): Tensor {
    const { up, down, activation } = this
    if (activation === 'swiglu') return down.call(swiglu(up.call(x)), residual)
    const weights = { up: up.weight.value, upBias: up.bias?.value, down: down.weight.value, downBias: down.bias?.value }
    return feedForward(x, weights, activation, residual)
  }
}
