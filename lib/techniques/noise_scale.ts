// Measures the gradient noise scale B = tr(S) / |G|^2, near which larger batches stop paying, from the norms of the
// gradients of the micro-batches (b tokens each) and of the whole step (B tokens):
// |G|^2 = (B |g_B|^2 - b |g_b|^2) / (B - b), tr(S) = (|g_b|^2 - |g_B|^2) / (1 / b - 1 / B). Both are averaged on their own
// (decay 0.99, bias taken out) and divided at the end: the mean of ratios would be biased. Gradients are those before
// clipping. Needs at least 2 micro-batches a step; costs memory for one more gradient at the steps that measure.
// Source: McCandlish et al., arXiv 1812.06162, appendix A.
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import { cast } from '../ops/cast'
import { clipGradNorm } from '../ops/clip'
import { add, mulScalar, square, sub } from '../ops/elementwise'
import { zeros } from '../ops/creation'
import { updateGroup } from '../optim/group'
import { keep, scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { GradientSum } from './m_sam'
import { withGradients } from './sam'
import { defineTechnique, type Technique, type TrainingRun } from './technique'

export interface NoiseEstimate {
  /** tr(S): the summed variance of one example's gradient. */
  variance: number
  /** |G|^2, without bias. */
  squaredNorm: number
}

/** From mean squared norms of gradients of `small` and of `large` examples. Unbiased, and noisy: average many. */
export function noiseEstimate({ small, large }: { small: number; large: number }, squares: { small: number; large: number }): NoiseEstimate {
  return {
    variance: (squares.small - squares.large) / (1 / small - 1 / large),
    squaredNorm: (large * squares.large - small * squares.small) / (large - small),
  }
}

const decay = 0.99

export interface NoiseMeasurement {
  /** In tokens; NaN before the first measurement. */
  noiseScale: number
  measurements: number
}

export const noiseScaleEntry = defineTechnique({
  name: 'noise_scale',
  title: 'Gradient noise scale: recommends a batch size',
  category: 'large batch',
  source: 'McCandlish et al., arXiv 1812.06162',
  settings: { every: { default: 10, min: 0, integer: true, help: 'steps between measurements; 0: never' } },
  neutral: { settings: { every: 0 } },
  make: ({ every }) => {
    let run: TrainingRun
    let count = 0
    let sizes = { tokens: 0, context: 1 }
    // Averages of tr(S) and |G|^2 on the device, so that measuring never waits.
    let averages: { variance: Tensor; squaredNorm: Tensor } | null = null

    function take(small: Tensor, large: Tensor, b: number, whole: number): void {
      const { device, dtype } = small
      averages ??= { variance: keep(zeros([1], { device, dtype })), squaredNorm: keep(zeros([1], { device, dtype })) }
      const variance = mulScalar(sub(small, large), 1 / (1 / b - 1 / whole))
      const squaredNorm = mulScalar(sub(mulScalar(large, whole), mulScalar(small, b)), 1 / (whole - b))
      const rate = (1 - decay) / (1 - decay ** ++count)
      const targets = [averages.variance, averages.squaredNorm]
      updateGroup('lerp', { parameters: targets, grads: [cast(variance, dtype), cast(squaredNorm, dtype)] }, { rate })
    }

    async function measured(): Promise<NoiseMeasurement> {
      if (!averages) return { noiseScale: NaN, measurements: 0 }
      const [variance, squaredNorm] = await Promise.all([averages.variance.item(), averages.squaredNorm.item()])
      return { noiseScale: variance / squaredNorm, measurements: count }
    }

    const technique: Omit<Technique, 'name'> & { measured(): Promise<NoiseMeasurement> } = {
      setup: (given) => void (run = given),
      measured,
      step(next, context) {
        if (every === 0) return next()
        const { batches, step, lossScale } = context
        if (batches.length < 2) {
          throw new LeanformerError(
            'ERR_OPTION',
            'noise_scale: the steps have one micro-batch, and noise shows in the difference of several',
            'give --accumulate 2 or more',
          )
        }
        const tokens = batches.reduce((total, batch) => total + batch.tokens, 0)
        sizes = { tokens, context: batches[0].context }
        if (step % every !== 0) return next()
        let measured = false
        withGradients(
          context,
          (plain, which) => {
            // A second gradient of the step is that of other weights.
            if (measured || which?.only !== undefined) return plain(which)
            measured = true
            const { parameters } = run
            const sum = new GradientSum(parameters)
            const present = () => [...parameters.values()].flatMap(({ grad }) => grad ?? [])
            const squared = (factor: number) =>
              noGrad(() => square(mulScalar(clipGradNorm(present(), { maxNorm: 0 }).norm, factor / lossScale)))
            const squares: Tensor[] = []
            for (const [only, batch] of batches.entries()) {
              plain({ ...which, only })
              // A micro-batch's gradient is of its share of the step's mean.
              if (batch.tokens > 0 && present().length) squares.push(squared(tokens / batch.tokens))
              sum.add()
            }
            sum.finish()
            if (!squares.length) return
            const mean = noGrad(() => mulScalar(squares.reduce((a, b) => add(a, b)), 1 / squares.length))
            noGrad(() => scope(() => take(mean, squared(1), tokens / squares.length, tokens)))
          },
          next,
        )
      },
      async summary() {
        const { noiseScale, measurements } = await measured()
        if (!measurements) return []
        if (!(noiseScale > 0)) return [`noise scale: not resolved after ${measurements} measurements; train longer or measure more often`]
        const windows = (n: number) => `${Math.round(n)} tokens (${(n / sizes.context).toPrecision(3)} windows)`
        const advice =
          sizes.tokens > 2 * noiseScale
            ? `the ${sizes.tokens} tokens a step of this run are more than twice that: a smaller batch would need fewer examples`
            : 'up to about that batch, more examples a step save steps almost in proportion'
        return [`noise scale: ${windows(noiseScale)} from ${measurements} measurements; ${advice}`]
      },
      state: () => ({
        data: { count },
        tensors: averages ? new Map(Object.entries(averages)) : undefined,
      }),
      load({ data, tensors }) {
        count = (data as { count: number }).count
        averages = tensors.size ? { variance: tensors.get('variance')!, squaredNorm: tensors.get('squaredNorm')! } : null
      },
    }
    return technique
  },
})
