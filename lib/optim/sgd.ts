// Stochastic gradient descent with momentum: g += wd p; buf = g at first, then momentum buf + (1 - dampening) g;
// p -= lr buf. Weight decay is the coupled kind (L2), and dampening leaves the first step alone, as in PyTorch.
import { LeanformerError } from '../native/errors'
import type { Parameter } from '../nn/parameter'
import { run, type Tensor } from '../tensor/tensor'
import { defineOptimizer, Optimizer, type ParameterGroup } from './optimizer'

export interface SGDOptions {
  /** Default 0: no momentum and no state. */
  momentum?: number
  /** Default 0. */
  dampening?: number
  /** p -= lr (g + momentum buf), which stands at the look-ahead point of Nesterov's method. */
  nesterov?: boolean
}

export class SGD extends Optimizer {
  private readonly options: Required<SGDOptions>

  constructor(groups: ParameterGroup[], options: SGDOptions = {}) {
    super(groups)
    this.options = { momentum: options.momentum ?? 0, dampening: options.dampening ?? 0, nesterov: options.nesterov ?? false }
    const { momentum, dampening, nesterov } = this.options
    if (!(momentum >= 0)) throw new LeanformerError('ERR_OPTION', `SGD: momentum must not be negative, got ${momentum}`)
    if (nesterov && (momentum <= 0 || dampening !== 0)) {
      throw new LeanformerError('ERR_OPTION', 'SGD: nesterov needs a momentum above 0 and no dampening')
    }
  }

  protected update(named: [string, Parameter][], lr: number, weightDecay: number, clip: Tensor | null): void {
    const copies = named.map(([, parameter]) => parameter.copy)
    const buffers = this.options.momentum ? named.map(([name, parameter]) => this.slot('momentum', name, parameter)) : []
    run(
      'sgd',
      [
        clip,
        ...named.map(([, parameter]) => parameter.tensor),
        ...named.map(([, parameter]) => parameter.grad),
        ...buffers,
        ...(copies.some((copy) => copy !== null) ? copies : []),
      ],
      { count: named.length, lr, ...this.options, weight_decay: weightDecay, first: this.steps === 1 },
    )
  }
}

export const sgdEntry = defineOptimizer({
  name: 'sgd',
  title: 'Stochastic gradient descent with momentum',
  source: 'Sutskever et al., ICML 2013; the form of PyTorch',
  settings: {
    momentum: { default: 0.9, min: 0, max: 0.999999, help: 'share of the last step kept; 0: plain gradient descent' },
    dampening: { default: 0, min: 0, max: 1, help: 'share of the gradient left out of the momentum' },
    nesterov: { default: false, help: 'look ahead along the momentum' },
  },
  make: (groups, options) => new SGD(groups, options),
})
