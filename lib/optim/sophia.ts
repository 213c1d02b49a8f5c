// Sophia-G: m as Adam; p -= lr (sign(m) min(|m| / (rho B h), 1) + wd p), where h is a running mean of squared gradients of
// sampled labels (B tokens in each), an estimate of the curvature. Measuring it is the technique sophia_curvature, or
// measure() by hand. Source: Liu et al., arXiv 2305.14342.
import { LeanformerError } from '../native/errors'
import type { Parameter } from '../nn/parameter'
import type { Tensor } from '../tensor/tensor'
import { membersOf, updateGroup, type GroupTensors } from './group'
import { checkFractions, defineOptimizer, Optimizer, type ParameterGroup } from './optimizer'

export interface SophiaOptions {
  /** Decay of the momentum; default 0.965. */
  beta1?: number
  /** Decay of the curvature; default 0.99. */
  beta2?: number
  /** Share of the curvature in the denominator; default 0.04. Right when 10 to 50 % of the elements are not cut off. */
  rho?: number
}

/** One update in place; the states are m and the curvature h, which stays. `scale` is rho B. */
export function sophia(tensors: GroupTensors, options: { lr: number; beta1: number; scale: number; weightDecay: number }): void {
  const { lr, beta1, scale, weightDecay } = options
  updateGroup('sophia', tensors, { lr, beta1, scale, weight_decay: weightDecay })
}

export class Sophia extends Optimizer {
  private readonly options: Required<SophiaOptions>

  constructor(groups: ParameterGroup[], { beta1 = 0.965, beta2 = 0.99, rho = 0.04 }: SophiaOptions = {}) {
    super(groups)
    this.options = { beta1, beta2, rho }
    checkFractions('Sophia', { beta1, beta2 })
    if (!(rho > 0)) throw new LeanformerError('ERR_OPTION', `Sophia: rho must be above 0, got ${rho}`)
    this.scalars = { tokens: 0 }
  }

  /** Takes the parameters' present gradients, of the mean loss on `tokens` sampled labels, into the curvature. */
  measure(tokens: number): void {
    this.scalars = { ...this.scalars, tokens }
    for (const { parameters } of this.groups) {
      const named = [...parameters].filter(([, { grad }]) => grad !== null)
      const curvature = named.map(([name, parameter]) => this.slot('h', name, parameter))
      updateGroup('lerp_square', { parameters: curvature, grads: named.map(([, { grad }]) => grad!) }, { rate: 1 - this.options.beta2 })
    }
  }

  protected override begin(): void {
    if (this.scalars.tokens > 0) return
    throw new LeanformerError(
      'ERR_OPTION',
      'Sophia: the curvature was never measured',
      'add the technique sophia_curvature, or call measure() before step()',
    )
  }

  protected update(named: [string, Parameter][], lr: number, weightDecay: number, clip: Tensor | null): void {
    const states = ['m', 'h'].map((slot) => named.map(([name, parameter]) => this.slot(slot, name, parameter)))
    const { beta1, rho } = this.options
    sophia({ ...membersOf(named), states, clip }, { lr, beta1, scale: rho * this.scalars.tokens, weightDecay })
  }
}

export const sophiaEntry = defineOptimizer({
  name: 'sophia',
  title: 'Sophia-G: steps by the curvature, cut off; needs --technique sophia_curvature',
  source: 'Liu et al., arXiv 2305.14342',
  needs: { technique: 'sophia_curvature', why: 'it steps by a curvature that something must measure' },
  settings: {
    beta1: { default: 0.965, min: 0, max: 0.999999, help: 'decay of the momentum' },
    beta2: { default: 0.99, min: 0, max: 0.999999, help: 'decay of the curvature' },
    rho: { default: 0.04, min: 1e-12, help: 'share of the curvature in the denominator' },
  },
  make: (groups, options) => new Sophia(groups, options),
})
