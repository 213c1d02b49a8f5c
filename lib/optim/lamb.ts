// LAMB: r = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + wd p; p -= lr |p| / |r| r, with the ratio per matrix (fused
// ones count as their parts) and 1 where a norm is 0. Vectors without weight decay take Adam's step. The published recipe
// clips the global gradient norm to 1 before, which is the trainer's default. For BERT: lr 5e-3 at batch 32768, and by the
// square root of the batch below that; see scaleLearningRate(). Source: You et al., arXiv 1904.00962.
import type { Parameter } from '../nn/parameter'
import type { Tensor } from '../tensor/tensor'
import { layersOf, updateGroup, type GroupTensors } from './group'
import { checkFractions, defineOptimizer, Optimizer, type ParameterGroup } from './optimizer'

export interface LAMBOptions {
  /** Default 0.9. */
  beta1?: number
  /** Default 0.999. */
  beta2?: number
  /** Default 1e-6. */
  eps?: number
  /** Largest ratio; 0 (default) for no limit. The paper's experiments allow 10. */
  maxTrust?: number
}

/** One update in place; the states are m and v. Without `adapt` the ratio is 1. `step` counts from 1. */
export function lamb(
  tensors: GroupTensors,
  options: Required<LAMBOptions> & { lr: number; weightDecay: number; adapt: boolean; step: number },
): void {
  const { lr, beta1, beta2, eps, weightDecay, maxTrust, adapt, step } = options
  updateGroup('lamb', tensors, { lr, beta1, beta2, eps, weight_decay: weightDecay, max_trust: maxTrust, adapt, step })
}

export class LAMB extends Optimizer {
  private readonly options: Required<LAMBOptions>

  constructor(groups: ParameterGroup[], { beta1 = 0.9, beta2 = 0.999, eps = 1e-6, maxTrust = 0 }: LAMBOptions = {}) {
    super(groups)
    this.options = { beta1, beta2, eps, maxTrust }
    checkFractions('LAMB', { beta1, beta2 })
  }

  protected update(named: [string, Parameter][], lr: number, weightDecay: number, clip: Tensor | null, group: ParameterGroup): void {
    const states = (name: string, parameter: Parameter) => [this.slot('m', name, parameter), this.slot('v', name, parameter)]
    for (const { layers, adapt } of layersOf(named, weightDecay, states)) {
      const eps = this.options.eps * (group.epsScale ?? 1)
      lamb({ ...layers, clip }, { ...this.options, eps, lr, weightDecay, adapt, step: this.steps })
    }
  }
}

export const lambEntry = defineOptimizer({
  name: 'lamb',
  title: 'Layer-wise adaptive moments for large batches',
  source: 'You et al., arXiv 1904.00962',
  settings: {
    beta1: { default: 0.9, min: 0, max: 0.999999, help: 'decay of the first moment' },
    beta2: { default: 0.999, min: 0, max: 0.999999, help: 'decay of the second moment' },
    eps: { default: 1e-6, min: 0, help: 'added to the root of the second moment' },
    max_trust: { default: 0, min: 0, help: 'largest ratio of the norms of parameter and step; 0: no limit' },
  },
  make: (groups, { max_trust: maxTrust, ...options }) => new LAMB(groups, { ...options, maxTrust }),
})
