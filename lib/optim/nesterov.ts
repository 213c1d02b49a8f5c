// Nesterov's accelerated gradient in its two writings. 'torch': SGD with nesterov on, the rate outside of the buffer; the
// parameter stands at the look-ahead point. 'sutskever': v = momentum v - lr g(p + momentum v), p += v; the parameter holds
// the look-ahead point p + momentum v, where gradients are taken, and p itself is evaluated and published. At a constant
// rate their look-ahead points agree; with a changing one they do not. Source: Sutskever et al., ICML 2013.
import { LeanformerError } from '../native/errors'
import type { Parameter } from '../nn/parameter'
import { mulScalar, sub } from '../ops/elementwise'
import type { Tensor } from '../tensor/tensor'
import { membersOf, updateGroup } from './group'
import { defineOptimizer, type ParameterGroup } from './optimizer'
import { SGD } from './sgd'

export interface NesterovOptions {
  /** Default 0.9. */
  momentum?: number
  /** Default 'torch'. */
  form?: 'torch' | 'sutskever'
}

export class Nesterov extends SGD {
  private readonly momentum: number
  private readonly form: 'torch' | 'sutskever'

  constructor(groups: ParameterGroup[], { momentum = 0.9, form = 'torch' }: NesterovOptions = {}) {
    super(groups, { momentum, nesterov: true })
    if (!(momentum < 1)) throw new LeanformerError('ERR_OPTION', `Nesterov: momentum must be below 1, got ${momentum}`)
    this.momentum = momentum
    this.form = form
  }

  protected override update(named: [string, Parameter][], lr: number, weightDecay: number, clip: Tensor | null): void {
    if (this.form === 'torch') return super.update(named, lr, weightDecay, clip)
    const states = [named.map(([name, parameter]) => this.slot('momentum', name, parameter))]
    updateGroup('nesterov', { ...membersOf(named), states, clip }, { lr, momentum: this.momentum, l2: weightDecay })
  }

  override evaluationWeights(): Map<string, Tensor> | null {
    if (this.form === 'torch' || this.steps === 0) return null
    const weights = new Map<string, Tensor>()
    for (const { parameters } of this.groups) {
      for (const [name, { tensor }] of parameters) {
        const velocity = this.slotsOf(name).get('momentum')
        if (velocity) weights.set(name, sub(tensor, mulScalar(velocity, this.momentum)))
      }
    }
    return weights
  }
}

export const nesterovEntry = defineOptimizer({
  name: 'nesterov',
  title: "Nesterov's accelerated gradient",
  source: 'Sutskever et al., ICML 2013',
  settings: {
    momentum: { default: 0.9, min: 0.000001, max: 0.999999, help: 'share of the last step kept' },
    form: { default: 'torch', choices: ['torch', 'sutskever'], help: 'rate outside or inside of the momentum' },
  },
  make: (groups, options) => new Nesterov(groups, options as NesterovOptions),
})
