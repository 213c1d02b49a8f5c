// LARS: the rate of each matrix is trust |p| / (|g| + wd |p|): v = momentum v + lr rate (g + wd p); p -= v. Vectors (biases,
// norm gains) without weight decay take plain momentum steps. Fused matrices count as their parts. The clipped form (LARC)
// never exceeds the plain rate. Sources: You et al., arXiv 1708.03888; LARC as in NVIDIA apex.
import type { Parameter } from '../nn/parameter'
import type { Tensor } from '../tensor/tensor'
import { layersOf, updateGroup, type GroupTensors } from './group'
import { checkFractions, defineOptimizer, Optimizer, type ParameterGroup } from './optimizer'

export interface LARSOptions {
  /** Default 0.9. */
  momentum?: number
  /** Length of a step over the length of the parameter, at lr 1; default 0.001. */
  trust?: number
  /** LARC: the rate of a matrix is at most lr. Default false. */
  clipRate?: boolean
}

/** One update in place; the state is the velocity. Without `adapt` it is plain momentum. */
export function lars(tensors: GroupTensors, options: Required<LARSOptions> & { lr: number; weightDecay: number; adapt: boolean }): void {
  const { lr, momentum, trust, clipRate, weightDecay, adapt } = options
  updateGroup('lars', tensors, { lr, momentum, trust, weight_decay: weightDecay, clip_rate: clipRate, adapt })
}

export class LARS extends Optimizer {
  private readonly options: Required<LARSOptions>

  constructor(groups: ParameterGroup[], { momentum = 0.9, trust = 0.001, clipRate = false }: LARSOptions = {}) {
    super(groups)
    this.options = { momentum, trust, clipRate }
    checkFractions('LARS', { momentum })
  }

  protected update(named: [string, Parameter][], lr: number, weightDecay: number, clip: Tensor | null): void {
    for (const { layers, adapt } of layersOf(named, weightDecay, (name, parameter) => [this.slot('momentum', name, parameter)])) {
      lars({ ...layers, clip }, { ...this.options, lr, weightDecay, adapt })
    }
  }
}

export const larsEntry = defineOptimizer({
  name: 'lars',
  title: 'Layer-wise adaptive rate scaling',
  source: 'You et al., arXiv 1708.03888',
  settings: {
    momentum: { default: 0.9, min: 0, max: 0.999999, help: 'share of the last step kept' },
    trust: { default: 0.001, min: 0, help: 'length of a step over the length of the parameter, at lr 1' },
    clip_rate: { default: false, help: 'LARC: the rate of a matrix is at most lr' },
  },
  make: (groups, { clip_rate: clipRate, ...options }) => new LARS(groups, { ...options, clipRate }),
})
