// Adafactor: the second moment of a matrix is kept as row means R and column means C, V = R C^T / mean(R): 8192 numbers for
// 4096 x 4096 instead of 16.8 million. u = g / sqrt(V), cut to a root mean square of at most d; p -= rate u, where the rate
// is max(eps2, RMS(p)) min(lr, 1 / sqrt(t)), or lr itself when `relative` is off. The moments decay by 1 - t^-0.8. eps1 is
// added to g^2 before averaging, as in fairseq (PyTorch limits V instead; they differ for gradients near 1e-15 alone).
// Source: Shazeer and Stern, arXiv 1804.04235.
import { LeanformerError } from '../native/errors'
import type { Parameter } from '../nn/parameter'
import { full, zeros } from '../ops/creation'
import { addScalar, div, maximum, mul, mulScalar, rsqrt, sqrt, square } from '../ops/elementwise'
import { mean } from '../ops/reductions'
import { reshape } from '../ops/reshape'
import type { Tensor } from '../tensor/tensor'
import { scaled, skipOnly, updateGroup } from './group'
import { defineOptimizer, Optimizer, type ParameterGroup } from './optimizer'

export interface AdafactorOptions {
  /** The decay of the moments is 1 - t^-decay; default 0.8. */
  decay?: number
  /** Added to squared gradients; default 1e-30. */
  eps1?: number
  /** Least size of a parameter in the rate; default 1e-3. */
  eps2?: number
  /** d, the largest root mean square of an update; default 1. */
  threshold?: number
  /** The rate follows the size of the parameter and 1 / sqrt(t), with lr as its limit; default true. */
  relative?: boolean
}

/**
 * Two factors that broadcast to V = R C^T / mean(R), R [..., rows], C [..., columns]. Where whole rows and columns have no
 * gradient, their product is too small for f32.
 */
export function factored(rows: Tensor, columns: Tensor): [Tensor, Tensor] {
  const share = div(rows, mean(rows, -1, { keepdims: true }))
  return [reshape(share, [...rows.shape, 1]), reshape(columns, [...columns.shape.slice(0, -1), 1, columns.shape[columns.rank - 1]])]
}

export class Adafactor extends Optimizer {
  private readonly options: Required<AdafactorOptions>

  constructor(groups: ParameterGroup[], options: AdafactorOptions = {}) {
    super(groups)
    const { decay = 0.8, eps1 = 1e-30, eps2 = 1e-3, threshold = 1, relative = true } = options
    this.options = { decay, eps1, eps2, threshold, relative }
    for (const name of ['decay', 'threshold'] as const) {
      if (!(this.options[name] > 0)) throw new LeanformerError('ERR_OPTION', `Adafactor: ${name} must be above 0, got ${this.options[name]}`)
    }
  }

  protected update(named: [string, Parameter][], lr: number, weightDecay: number, clip: Tensor | null): void {
    const skip = skipOnly(clip)
    const { relative, eps2 } = this.options
    const rate = relative ? Math.min(lr, 1 / Math.sqrt(this.steps)) : lr
    const updates = named.map(([name, parameter]) => {
      const u = this.direction(name, parameter, scaled(parameter.grad!, clip), skip)
      const p = parameter.tensor
      const size = relative ? maximum(sqrt(mean(square(p))), full([], eps2, p)) : null
      return mulScalar(size ? mul(u, size) : u, rate)
    })
    const tensors = {
      parameters: named.map(([, parameter]) => parameter.tensor),
      grads: updates,
      copies: named.map(([, parameter]) => parameter.copy),
      clip: skip,
    }
    updateGroup('scaled_add', tensors, { decay: 1 - lr * weightDecay, factor: -1 })
  }

  /** g / sqrt(V), cut to the threshold; moves the moments. */
  private direction(name: string, parameter: Parameter, grad: Tensor, skip: Tensor | null): Tensor {
    const { decay, eps1, threshold } = this.options
    const rate = this.steps ** -decay
    const { device, dtype } = parameter.tensor
    const squares = addScalar(square(grad), eps1)
    const follow = (slot: string, target: Tensor): Tensor => {
      const state = this.slot(slot, name, parameter, () => zeros(target.shape, { device, dtype }))
      updateGroup('lerp', { parameters: [state], grads: [target], clip: skip }, { rate })
      return state
    }
    const moments = grad.rank >= 2 ? factored(follow('rows', mean(squares, -1)), follow('columns', mean(squares, -2))) : [follow('v', squares)]
    const u = moments.reduce((x, v) => mul(x, rsqrt(v)), grad)
    const size = mulScalar(sqrt(mean(square(u))), 1 / threshold)
    return div(u, maximum(size, full([], 1, u)))
  }
}

export const adafactorEntry = defineOptimizer({
  name: 'adafactor',
  title: 'Adafactor: second moments as row and column means',
  source: 'Shazeer and Stern, arXiv 1804.04235',
  settings: {
    decay: { default: 0.8, min: 1e-6, help: 'the decay of the moments is 1 - t^-decay' },
    eps1: { default: 1e-30, min: 0, help: 'added to squared gradients' },
    eps2: { default: 1e-3, min: 0, help: 'least size of a parameter in the rate' },
    threshold: { default: 1, min: 1e-6, help: 'largest root mean square of an update' },
    relative: { default: true, help: 'the rate follows the size of the parameter and 1 / sqrt(t), with lr as its limit' },
  },
  make: (groups, options) => new Adafactor(groups, options),
})
