// Adam with the weight decay in the gradient (L2): g += wd p, then the moments and the step of AdamW. With amsgrad, the step
// divides by the largest second moment so far. The order of operations is PyTorch's.
// Sources: Kingma and Ba, arXiv 1412.6980; AMSGrad, Reddi et al., ICLR 2018.
import type { Parameter } from '../nn/parameter'
import type { Tensor } from '../tensor/tensor'
import { checkFractions, defineOptimizer, Optimizer, type ParameterGroup } from './optimizer'
import { membersOf, updateGroup, type GroupTensors } from './group'

export interface AdamOptions {
  /** Default 0.9. */
  beta1?: number
  /** Default 0.999. */
  beta2?: number
  /** Default 1e-8; added after the root and after bias correction. */
  eps?: number
  amsgrad?: boolean
  /** Weight decay off the parameter, as in AdamW, instead of in the gradient. Default false. */
  decoupled?: boolean
}

/** One update in place; the states are m, v and, for AMSGrad, the largest v. `step` counts from 1. */
export function adam(tensors: GroupTensors, options: Required<AdamOptions> & { lr: number; weightDecay: number; step: number }): void {
  const { lr, beta1, beta2, eps, amsgrad, decoupled, weightDecay, step } = options
  const decay = decoupled ? { l2: 0, weight_decay: weightDecay } : { l2: weightDecay, weight_decay: 0 }
  updateGroup(amsgrad ? 'amsgrad' : 'adam', tensors, { lr, beta1, beta2, eps, ...decay, step })
}

export class Adam extends Optimizer {
  private readonly options: Required<AdamOptions>

  constructor(groups: ParameterGroup[], options: AdamOptions = {}) {
    super(groups)
    const { beta1 = 0.9, beta2 = 0.999, eps = 1e-8, amsgrad = false, decoupled = false } = options
    this.options = { beta1, beta2, eps, amsgrad, decoupled }
    checkFractions('Adam', { beta1, beta2 })
  }

  protected update(named: [string, Parameter][], lr: number, weightDecay: number, clip: Tensor | null, group: ParameterGroup): void {
    const slots = this.options.amsgrad ? ['m', 'v', 'largest_v'] : ['m', 'v']
    const states = slots.map((slot) => named.map(([name, parameter]) => this.slot(slot, name, parameter)))
    adam({ ...membersOf(named), states, clip }, { ...this.options, eps: this.options.eps * (group.epsScale ?? 1), lr, weightDecay, step: this.steps })
  }
}

export const adamEntry = defineOptimizer({
  name: 'adam',
  title: 'Adam with weight decay in the gradient',
  source: 'Kingma and Ba, arXiv 1412.6980',
  settings: {
    beta1: { default: 0.9, min: 0, max: 0.999999, help: 'decay of the first moment' },
    beta2: { default: 0.999, min: 0, max: 0.999999, help: 'decay of the second moment' },
    eps: { default: 1e-8, min: 0, help: 'added to the root of the second moment' },
  },
  make: (groups, options) => new Adam(groups, options),
})
