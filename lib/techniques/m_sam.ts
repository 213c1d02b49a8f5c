// m-SAM: SAM with a perturbation of its own for each micro-batch, from that micro-batch's gradient: what data parallelism
// without synchronised perturbations does. A different algorithm from SAM on the whole batch, often a better one, and the
// same work. Source: Foret et al., arXiv 2010.01412, section 4.1.
import { keep, scope } from '../tensor/scope'
import { copy } from '../ops/copy'
import { accumulate } from '../ops/accumulate'
import type { Parameter } from '../nn/parameter'
import type { Tensor } from '../tensor/tensor'
import { inside, sharpnessAwareGradients, sharpnessOptions, sharpnessSettings, withGradients } from './sam'
import { defineTechnique, type TrainingRun } from './technique'

/** Adds up gradients that are computed one after the other: add() takes the present ones, finish() leaves the sum. */
export class GradientSum {
  private readonly sums = new Map<string, Tensor>()

  constructor(private readonly parameters: Map<string, Parameter>) {}

  add(): void {
    for (const [name, { grad }] of this.parameters) {
      if (!grad) continue
      const sum = this.sums.get(name)
      if (sum) accumulate(sum, grad)
      else this.sums.set(name, keep(scope(() => copy(grad))))
    }
  }

  finish(): void {
    for (const [name, parameter] of this.parameters) {
      parameter.zeroGrad()
      parameter.tensor.grad = this.sums.get(name) ?? null
    }
    this.sums.clear()
  }
}

export const mSamEntry = defineTechnique({
  name: 'm_sam',
  title: 'Sharpness-aware minimisation by micro-batch',
  category: 'optimisation',
  source: 'Foret et al., arXiv 2010.01412',
  settings: { rho: { default: 0.05, min: 0, help: 'radius of the ball in which the loss is looked at' }, ...sharpnessSettings },
  decides: ['gradient_point'],
  excludes: { noise_scale: 'its gradients are those of single micro-batches, at points of their own' },
  neutral: { settings: { rho: 0, same_format: true } },
  make: ({ redraw, ...values }) => {
    const options = sharpnessOptions(values)
    let run: TrainingRun
    return {
      after: inside,
      setup: (given) => void (run = given),
      step(next, context) {
        if (options.rho === 0) return next()
        withGradients(
          context,
          (plain, which) => {
            const chosen = which?.only === undefined ? context.batches.map((_, i) => i) : [which.only]
            const { parameters } = run
            const sum = new GradientSum(parameters)
            for (const only of chosen) {
              sharpnessAwareGradients(parameters, (second) => plain({ ...which, only, redraw: second ? redraw : which?.redraw }), options)
              sum.add()
            }
            sum.finish()
          },
          next,
        )
      },
    }
  },
})
