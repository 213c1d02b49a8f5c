// AdamW: m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, p -= lr (wd p + m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)).
// Source: Loshchilov and Hutter, arXiv 1711.05101.
import { LeanformerError } from '../native/errors'
import type { Parameter } from '../nn/parameter'
import { run, type Tensor } from '../tensor/tensor'
import { defineOptimizer, Optimizer, type ParameterGroup } from './optimizer'

export interface AdamWOptions {
  /** Default 0.9. */
  beta1?: number
  /** Default 0.999. */
  beta2?: number
  /** Default 1e-8; added after the root and after bias correction. */
  eps?: number
}

/** One AdamW update of a list of parameters, in place; `copies` are low-precision copies to refresh. `step` counts from 1. */
export function adamw(
  tensors: { parameters: Tensor[]; grads: Tensor[]; m: Tensor[]; v: Tensor[]; copies?: (Tensor | null)[]; clip?: Tensor | null },
  options: Required<AdamWOptions> & { lr: number; weightDecay: number; step: number },
): void {
  const { parameters, grads, m, v, clip, copies = [] } = tensors
  run('adamw', [clip, ...parameters, ...grads, ...m, ...v, ...copies], {
    count: parameters.length,
    lr: options.lr,
    beta1: options.beta1,
    beta2: options.beta2,
    eps: options.eps,
    weight_decay: options.weightDecay,
    step: options.step,
  })
}

export class AdamW extends Optimizer {
  private readonly options: Required<AdamWOptions>

  constructor(groups: ParameterGroup[], options: AdamWOptions = {}) {
    super(groups)
    this.options = { beta1: options.beta1 ?? 0.9, beta2: options.beta2 ?? 0.999, eps: options.eps ?? 1e-8 }
    for (const name of ['beta1', 'beta2'] as const) {
      const value = this.options[name]
      if (!(value >= 0 && value < 1)) throw new LeanformerError('ERR_OPTION', `AdamW: ${name} must be at least 0 and below 1, got ${value}`)
    }
  }

  protected update(named: [string, Parameter][], lr: number, weightDecay: number, clip: Tensor | null, group: ParameterGroup): void {
    const copies = named.map(([, parameter]) => parameter.copy)
    adamw(
      {
        parameters: named.map(([, parameter]) => parameter.tensor),
        grads: named.map(([, parameter]) => parameter.grad!),
        m: named.map(([name, parameter]) => this.slot('m', name, parameter)),
        v: named.map(([name, parameter]) => this.slot('v', name, parameter)),
        copies: copies.some((copy) => copy !== null) ? copies : [],
        clip,
      },
      { ...this.options, eps: this.options.eps * (group.epsScale ?? 1), lr, weightDecay, step: this.steps },
    )
  }
}

export const adamwEntry = defineOptimizer({
  name: 'adamw',
  title: 'Adam with decoupled weight decay',
  source: 'Loshchilov and Hutter, arXiv 1711.05101',
  settings: {
    beta1: { default: 0.9, min: 0, max: 0.999999, help: 'decay of the first moment' },
    beta2: { default: 0.95, min: 0, max: 0.999999, help: 'decay of the second moment; 0.95 suits language models' },
    eps: { default: 1e-8, min: 0, help: 'added to the root of the second moment' },
  },
  make: (groups, options) => new AdamW(groups, options),
})
