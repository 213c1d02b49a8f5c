// The feed-forward half of a transformer block: up, activation, down; or the gated form down(silu(gate x) * up x).
// Source of SwiGLU: Shazeer, arXiv 2002.05202.
import type { Initializer } from '../init/initializer'
import { LeanformerError } from '../native/errors'
import { zeros } from '../ops/creation'
import { gelu, relu, silu } from '../ops/elementwise'
import { feedForward } from '../ops/linear'
import { swiglu } from '../ops/swiglu'
import type { Tensor } from '../tensor/tensor'
import { Linear } from './linear'
import { Module, type ModuleOptions } from './module'
import { Parameter } from './parameter'
import { shifted } from './residual'

const activations: Record<MLPActivation, (x: Tensor) => Tensor> = {
  gelu: (x) => gelu(x),
  gelu_exact: (x) => gelu(x, 'none'),
  relu,
  silu,
  swiglu,
}

export type MLPActivation = 'gelu' | 'gelu_exact' | 'relu' | 'silu' | 'swiglu'

export interface MLPOptions extends ModuleOptions {
  activation?: MLPActivation
  bias?: boolean
  /** A trainable scalar added before the activation and one before the last product, 0 at first (Fixup). */
  shifts?: boolean
  downInit?: Initializer
}

export class MLP extends Module<[x: Tensor, residual?: Tensor | null]> {
  /** [hidden, width]; for swiglu [2 hidden, width], the gate's rows first. */
  up: Linear
  down: Linear
  /** f32 [1] each. */
  upShift: Parameter | null
  downShift: Parameter | null
  readonly activation: MLPActivation

  constructor(width: number, hidden: number, options: MLPOptions = {}) {
    super()
    this.activation = options.activation ?? 'gelu'
    const common = { device: options.device, dtype: options.dtype, generator: options.generator, bias: options.bias }
    this.up = new Linear(width, this.activation === 'swiglu' ? 2 * hidden : hidden, common)
    if (this.activation === 'swiglu') this.up.weight.parts = [hidden, hidden]
    this.down = new Linear(hidden, width, { ...common, init: options.downInit })
    const shift = () => (options.shifts ? new Parameter(zeros([1], common)) : null)
    this.upShift = shift()
    this.downShift = shift()
  }

  /** Keeps these hidden units; with a gate, both of its halves. */
  keepUnits(kept: readonly number[]): void {
    const hidden = this.down.shape[1]
    if (!kept.length || kept.some((unit) => !(unit >= 0 && unit < hidden))) {
      throw new LeanformerError('ERR_ARGUMENT', `MLP: units ${kept.slice(0, 5).join(', ')} of ${hidden}`, 'give at least one, counted from 0')
    }
    this.up.keepOutputs(this.activation === 'swiglu' ? [...kept, ...kept.map((unit) => hidden + unit)] : kept)
    this.down.keepInputs(kept)
  }

  forward(x: Tensor, residual?: Tensor | null): Tensor {
    const { up, down, activation } = this
    if (activation === 'swiglu' || this.upShift || !up.plain || !down.plain) {
      const pre = shifted(up.call(x), this.upShift)
      return down.call(shifted(activations[activation](pre), this.downShift), residual)
    }
    const weights = { up: up.weight.value, upBias: up.bias?.value, down: down.weight.value, downBias: down.bias?.value }
    return feedForward(x, weights, activation, residual)
  }
}
