// Exponential moving average of the weights: after each update a += (1 - b) / (1 - b^t) (p - a), which is the average with
// its bias towards the start taken out: a constant parameter gives itself at every t. With `ramp` the decay is
// min(b, (1 + t) / (10 + t)) instead. The average is what is evaluated and published; training goes on from its own weights.
// Source: Izmailov et al., arXiv 1803.05407; Polyak and Juditsky 1992.
import type { Parameter } from '../nn/parameter'
import { zerosLike } from '../ops/creation'
import { skipOnly, updateGroup } from '../optim/group'
import type { Optimizer } from '../optim/optimizer'
import { keep, scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { defineTechnique } from './technique'

/** The share of its way to the parameter that the average goes at update t, counted from 1. */
export function emaRate(t: number, { decay, ramp = false }: { decay: number; ramp?: boolean }): number {
  return ramp ? 1 - Math.min(decay, (1 + t) / (10 + t)) : (1 - decay) / (1 - decay ** t)
}

/** Moves every average a share of its way to its parameter, in place; not where clip[1] is not 0. */
export function updateAverages(averages: Map<string, Tensor>, parameters: Map<string, Parameter>, rate: number, clip?: Tensor | null): void {
  const names = [...averages.keys()]
  const tensors = { parameters: names.map((name) => averages.get(name)!), grads: names.map((name) => parameters.get(name)!.tensor) }
  scope(() => updateGroup('lerp', { ...tensors, clip: clip ? skipOnly(clip) : null }, { rate }))
}

/** Averages of all parameters, zeros at first. */
export function startAverages(parameters: Map<string, Parameter>): Map<string, Tensor> {
  return new Map([...parameters].map(([name, { tensor }]) => [name, keep(zerosLike(tensor))]))
}

export const emaEntry = defineTechnique({
  name: 'ema',
  title: 'Exponential moving average of the weights, for evaluation',
  category: 'optimisation',
  source: 'Polyak and Juditsky 1992; Izmailov et al., arXiv 1803.05407',
  settings: {
    decay: { default: 0.999, min: 0, max: 0.9999999, help: 'share of the average kept at each update; 0: off' },
    ramp: { default: false, help: 'start with a small decay instead of taking the bias out' },
    start: { default: 0, min: 0, integer: true, help: 'updates before the averaging begins' },
  },
  decides: ['evaluated_weights'],
  neutral: { settings: { decay: 0 } },
  make: ({ start, ...options }) => {
    let parameters: Map<string, Parameter>
    let optimizer: Optimizer
    let averages: Map<string, Tensor> | null = null
    return {
      setup: (run) => ({ parameters, optimizer } = run),
      step(next, context) {
        next()
        // An update that turns out to be skipped is taken out of the optimiser's count before the next one.
        const t = optimizer.steps - start
        if (t < 1 || options.decay === 0) return
        averages ??= startAverages(parameters)
        updateAverages(averages, parameters, emaRate(t, options), context.clip)
      },
      evaluationWeights: () => averages,
      state: () => ({ tensors: averages ?? undefined }),
      load({ tensors }) {
        averages = tensors.size ? tensors : null
      },
    }
  },
})
