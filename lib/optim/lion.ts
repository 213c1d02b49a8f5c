// Lion: p -= lr (sign(b1 m + (1 - b1) g) + wd p), then m = b2 m + (1 - b2) g. Every element moves by exactly lr, or not at
// all where the sign is of 0. Half of Adam's state. Rates are 3 to 10 times smaller than AdamW's, decay as much larger.
// Source: Chen et al., arXiv 2302.06675.
import type { Parameter } from '../nn/parameter'
import type { Tensor } from '../tensor/tensor'
import { membersOf, updateGroup, type GroupTensors } from './group'
import { checkFractions, defineOptimizer, Optimizer, type ParameterGroup } from './optimizer'

export interface LionOptions {
  /** Weight of the momentum in the step; default 0.9. */
  beta1?: number
  /** Decay of the momentum; default 0.99. */
  beta2?: number
}

/** One update in place; the state is m. */
export function lion(tensors: GroupTensors, options: Required<LionOptions> & { lr: number; weightDecay: number }): void {
  const { lr, beta1, beta2, weightDecay } = options
  updateGroup('lion', tensors, { lr, beta1, beta2, weight_decay: weightDecay })
}

export class Lion extends Optimizer {
  private readonly options: Required<LionOptions>

  constructor(groups: ParameterGroup[], { beta1 = 0.9, beta2 = 0.99 }: LionOptions = {}) {
    super(groups)
    this.options = { beta1, beta2 }
    checkFractions('Lion', this.options)
  }

  protected update(named: [string, Parameter][], lr: number, weightDecay: number, clip: Tensor | null): void {
    const states = [named.map(([name, parameter]) => this.slot('m', name, parameter))]
    lion({ ...membersOf(named), states, clip }, { ...this.options, lr, weightDecay })
  }
}

export const lionEntry = defineOptimizer({
  name: 'lion',
  title: 'Lion: steps by the sign of a momentum',
  source: 'Chen et al., arXiv 2302.06675',
  settings: {
    beta1: { default: 0.9, min: 0, max: 0.999999, help: 'weight of the momentum in the step' },
    beta2: { default: 0.99, min: 0, max: 0.999999, help: 'decay of the momentum' },
  },
  make: (groups, options) => new Lion(groups, options),
})
