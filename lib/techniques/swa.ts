// Stochastic weight averaging: from `start` of the steps on, every `every` steps, the mean of the weights so far,
// a += (p - a) / (n + 1). It wants a constant or cyclic learning rate there. The mean is what is evaluated and published;
// training goes on from its own weights. Source: Izmailov et al., arXiv 1803.05407.
import type { Parameter } from '../nn/parameter'
import type { Tensor } from '../tensor/tensor'
import { startAverages, updateAverages } from './ema'
import { defineTechnique } from './technique'

export const swaEntry = defineTechnique({
  name: 'swa',
  title: 'Mean of the weights along the end of the run, for evaluation',
  category: 'optimisation',
  source: 'Izmailov et al., arXiv 1803.05407',
  settings: {
    start: { default: 0.75, min: 0, max: 1, help: 'share of the run before the averaging begins' },
    every: { default: 10, min: 1, integer: true, help: 'steps between the weights that are averaged' },
  },
  decides: ['evaluated_weights'],
  neutral: { settings: { start: 1 } },
  make: ({ start, every }) => {
    let parameters: Map<string, Parameter>
    let steps = 0
    let count = 0
    let means: Map<string, Tensor> | null = null
    return {
      setup: (run) => ({ parameters, steps } = run),
      step(next, { step }) {
        next()
        const since = step + 1 - Math.floor(start * steps)
        if (since <= 0 || since % every !== 0) return
        means ??= startAverages(parameters)
        updateAverages(means, parameters, 1 / ++count)
      },
      evaluationWeights: () => means,
      state: () => ({ data: { count }, tensors: means ?? undefined }),
      load({ data, tensors }) {
        count = (data as { count: number }).count
        means = tensors.size ? tensors : null
      },
    }
  },
})
