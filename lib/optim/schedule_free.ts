// Schedule-free AdamW: gradients are taken at y = (1 - b1) z + b1 x, where z makes the steps of AdamW (without momentum) and
// x is the average of all z, weighted by t^r and the square of the largest rate so far. The parameters hold y while they
// train; evaluation and the published weights are x. No decay of the rate is needed, warm-up helps. State: z and the second
// moment; x = y + (1 - 1 / b1) (z - y), but for b1 = 0, where y is z, x has a state of its own.
// Source: Defazio et al., arXiv 2405.15682.
import { LeanformerError } from '../native/errors'
import type { Parameter } from '../nn/parameter'
import { copy } from '../ops/copy'
import { add, mulScalar, sub } from '../ops/elementwise'
import type { Tensor } from '../tensor/tensor'
import { membersOf, skipOnly, updateGroup, type GroupTensors } from './group'
import { checkFractions, defineOptimizer, Optimizer, type ParameterGroup } from './optimizer'

export interface ScheduleFreeOptions {
  /** Weight of the average in the point where gradients are taken; default 0.9. */
  beta1?: number
  /** Default 0.999. */
  beta2?: number
  /** Default 1e-8. */
  eps?: number
  /** r: later steps weigh more by t^r; default 0. */
  power?: number
}

/** One update in place: the parameters are y, the states z and v. `average` is the share of z in the new x. */
export function scheduleFreeAdamw(
  tensors: GroupTensors,
  options: { lr: number; beta1: number; beta2: number; eps: number; weightDecay: number; average: number; step: number },
): void {
  const { weightDecay, ...rest } = options
  updateGroup('schedule_free_adamw', tensors, { ...rest, weight_decay: weightDecay })
}

export class ScheduleFreeAdamW extends Optimizer {
  private readonly options: Required<ScheduleFreeOptions>

  constructor(groups: ParameterGroup[], options: ScheduleFreeOptions = {}) {
    super(groups)
    const { beta1 = 0.9, beta2 = 0.999, eps = 1e-8, power = 0 } = options
    this.options = { beta1, beta2, eps, power }
    checkFractions('ScheduleFreeAdamW', { beta1, beta2 })
    if (!(power >= 0)) throw new LeanformerError('ERR_OPTION', `ScheduleFreeAdamW: power must not be negative, got ${power}`)
    this.scalars = { largestRate: 0, weightSum: 0, average: 1 }
  }

  protected override begin(lr: number): void {
    const { largestRate, weightSum } = this.scalars
    const largest = Math.max(largestRate, lr)
    const weight = this.steps ** this.options.power * largest ** 2
    const sum = weightSum + weight
    this.scalars = { largestRate: largest, weightSum: sum, average: sum > 0 ? weight / sum : 0 }
  }

  protected update(named: [string, Parameter][], lr: number, weightDecay: number, clip: Tensor | null, group: ParameterGroup): void {
    const { beta1, beta2 } = this.options
    const eps = this.options.eps * (group.epsScale ?? 1)
    const { average } = this.scalars
    const slots = (slot: string, make?: (p: Parameter) => Tensor) =>
      named.map(([name, parameter]) => this.slot(slot, name, parameter, make && (() => make(parameter))))
    const members = membersOf(named)
    const z = slots('z', (parameter) => copy(parameter.tensor))
    const averages = beta1 === 0 ? slots('x') : []
    scheduleFreeAdamw({ ...members, states: [z, slots('v')], clip }, { lr, beta1, beta2, eps, weightDecay, average, step: this.steps })
    if (averages.length) {
      // Where a step is skipped, the average must not move either.
      updateGroup('lerp', { parameters: averages, grads: members.parameters, clip: skipOnly(clip) }, { rate: average })
    }
  }

  override evaluationWeights(): Map<string, Tensor> | null {
    if (this.steps === 0) return null
    const weights = new Map<string, Tensor>()
    for (const { parameters } of this.groups) {
      for (const [name, { tensor: y }] of parameters) {
        const slots = this.slotsOf(name)
        const x = slots.get('x')
        if (x) weights.set(name, x)
        else if (slots.has('z')) weights.set(name, add(y, mulScalar(sub(slots.get('z')!, y), 1 - 1 / this.options.beta1)))
      }
    }
    return weights
  }
}

export const scheduleFreeEntry = defineOptimizer({
  name: 'schedule_free',
  title: 'AdamW with averaging instead of a decaying rate',
  source: 'Defazio et al., arXiv 2405.15682',
  settings: {
    beta1: { default: 0.9, min: 0, max: 0.999999, help: 'weight of the average where gradients are taken' },
    beta2: { default: 0.999, min: 0, max: 0.999999, help: 'decay of the second moment' },
    eps: { default: 1e-8, min: 0, help: 'added to the root of the second moment' },
    power: { default: 0, min: 0, help: 'later steps weigh more by this power of their number' },
  },
  decides: ['evaluated_weights'],
  make: (groups, options) => new ScheduleFreeAdamW(groups, options),
})
