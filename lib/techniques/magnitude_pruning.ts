// Gradual magnitude pruning: from `start` to `end` of the run, every `every` steps, the weights with the smallest |w| are
// taken out so that the sparsity follows s_f + (s_i - s_f) (1 - u)^3 with u from 0 to 1. Pruned weights stay 0. Per matrix,
// or by one threshold for all. Source: Zhu and Gupta, arXiv 1710.01878.
import { gradientTechniques, maskableOf, maskedStep, Masks, sparseInPlace } from './masks'
import { defineTechnique } from './technique'

/** The sparsity at u from 0 (the start of the pruning) to 1. */
export function cubicSparsity(u: number, final: number, initial = 0): number {
  const clamped = Math.min(1, Math.max(0, u))
  return final + (initial - final) * (1 - clamped) ** 3
}

export const magnitudePruningEntry = defineTechnique({
  name: 'magnitude_pruning',
  title: 'Gradual magnitude pruning',
  category: 'sparse training',
  source: 'Zhu and Gupta, arXiv 1710.01878',
  settings: {
    sparsity: { default: 0.9, min: 0, max: 0.9999, help: 'share of the weights of hidden matrices that are 0 at the end' },
    start: { default: 0.25, min: 0, max: 1, help: 'share of the run before the pruning begins' },
    end: { default: 0.75, min: 0, max: 1, help: 'share of the run at which it is done' },
    every: { default: 100, min: 1, integer: true, help: 'steps between prunings' },
    scope: { default: 'layer', choices: ['layer', 'global'], help: 'rank weights within each matrix, or all together' },
  },
  ...sparseInPlace,
  neutral: { settings: { sparsity: 0 } },
  make: ({ sparsity, start, end, every, scope }) => {
    let masks: Masks
    let first = 0
    let last = 0
    /** Kept weights of `size` after `step`. */
    const kept = (size: number, step: number) => size - Math.round(size * cubicSparsity((step - first) / Math.max(1, last - first), sparsity))
    const due = (step: number) => step > first && step <= last && ((step - first) % every === 0 || step === last)
    return {
      after: gradientTechniques,
      setup({ parameters, optimizer, steps }) {
        masks = new Masks(maskableOf(parameters), optimizer)
        first = Math.floor(start * steps)
        last = Math.max(first + 1, Math.floor(end * steps))
      },
      // Before a step, since a threshold for all matrices has to be waited for.
      async prepare(batches, { step }) {
        if (sparsity > 0 && due(step)) {
          const each = new Map([...masks.parameters].map(([name, { tensor }]) => [name, kept(tensor.size, step)]))
          await masks.pruneByMagnitude(scope === 'layer' ? each : kept(masks.size, step))
        }
        return batches
      },
      step(next, context) {
        if (masks.masks.size) maskedStep(masks, next, context, () => masks.maskGradients())
        else next()
      },
      summary: () => (masks.masks.size ? masks.summary('magnitude pruning') : Promise.resolve([])),
      state: () => masks.state(),
      load: (state) => masks.load(state),
    }
  },
})
