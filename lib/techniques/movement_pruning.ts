// Movement pruning: a trained score S for every weight decides who stays. Layers compute with W * M, M the k largest scores
// of a matrix (signed, not their sizes); with G the gradient of W * M, dL/dS = G * W and dL/dW = G * M. A score grows when its
// weight moves away from 0, so weights that shrink go, however large they still are. The kept share falls from 1 along a
// cubic. Scores have an Adam of their own, without weight decay. For fine-tuning; distillation nearly always goes with it.
// Source: Sanh et al., arXiv 2005.07683.
import { noGrad } from '../autograd/tape'
import type { Parameter } from '../nn/parameter'
import { copy } from '../ops/copy'
import { zerosLike } from '../ops/creation'
import { mul, mulScalar } from '../ops/elementwise'
import { adam } from '../optim/adam'
import { keep } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { keepLargest, maskableOf, sparse } from './masks'
import { cubicSparsity } from './magnitude_pruning'
import { substitutedStep } from './sr_ste'
import { defineTechnique } from './technique'

/** dL/dS and dL/dW from G, the gradient of W * M. */
export function movementGradients(weight: Tensor, mask: Tensor, grad: Tensor): { scores: Tensor; weight: Tensor } {
  return { scores: mul(grad, weight), weight: mul(grad, mask) }
}

export const movementPruningEntry = defineTechnique({
  name: 'movement_pruning',
  title: 'Pruning by the movement of weights during fine-tuning',
  category: 'sparse training',
  source: 'Sanh et al., arXiv 2005.07683',
  settings: {
    kept: { default: 0.15, min: 0.005, max: 1, help: 'share of the weights of hidden matrices kept at the end; 1: off' },
    start: { default: 0.1, min: 0, max: 1, help: 'share of the run before the pruning begins' },
    end: { default: 0.8, min: 0, max: 1, help: 'share of the run at which it is done' },
    score_lr: { default: 0.01, min: 0, help: 'learning rate of the scores' },
  },
  decides: [...sparse.decides, 'evaluated_weights'],
  excludes: {
    ...sparse.excludes,
    gradient_point: 'scores would be updated twice a step',
    noise_scale: 'scores would be updated with each micro-batch',
    sophia_curvature: 'the curvature would be that of the weights without masks',
  },
  neutral: { settings: { kept: 1 } },
  make: ({ kept, start, end, score_lr: scoreRate }) => {
    let parameters: Map<string, Parameter>
    let steps = 1
    let done = 0
    let state = new Map<string, Tensor>()
    const share = (step: number) => 1 - cubicSparsity((step / steps - start) / Math.max(1e-9, end - start), 1 - kept)
    const slot = (name: string, kind: string) => {
      const key = `${kind}.${name}`
      if (!state.has(key)) state.set(key, keep(noGrad(() => zerosLike(parameters.get(name)!.tensor))))
      return state.get(key)!
    }
    const mask = (name: string, step: number) => {
      const scores = slot(name, 'scores')
      return keepLargest(scores, Math.round(share(step) * scores.size))
    }
    return {
      setup: (run) => void (({ steps } = run), (parameters = maskableOf(run.parameters))),
      step(next, context) {
        if (kept === 1) return next()
        const { step, lossScale } = context
        const masks = new Map<string, Tensor>()
        const substitute = (name: string, parameter: Parameter) => {
          const own = keep(copy(mask(name, step)))
          masks.set(name, own)
          return mul(parameter.tensor, own)
        }
        substitutedStep(parameters, substitute, next, context, () => {
          const named = [...parameters].filter(([, { grad }]) => grad !== null)
          const scoreGrads = named.map(([name, parameter]) => {
            const parts = movementGradients(parameter.tensor, masks.get(name)!, parameter.grad!)
            parameter.zeroGrad()
            parameter.tensor.grad = keep(parts.weight)
            return mulScalar(parts.scores, 1 / lossScale)
          })
          const slots = (kind: string) => named.map(([name]) => slot(name, kind))
          const tensors = { parameters: slots('scores'), grads: scoreGrads, states: [slots('m'), slots('v')] }
          const settings = { lr: scoreRate, beta1: 0.9, beta2: 0.999, eps: 1e-8, amsgrad: false, decoupled: true, weightDecay: 0 }
          adam(tensors, { ...settings, step: step + 1 })
          for (const own of masks.values()) own.dispose()
          masks.clear()
        })
        done = step + 1
      },
      evaluationWeights: () =>
        kept === 1 || done === 0 ? null : new Map([...parameters].map(([name, { tensor }]) => [name, mul(tensor, mask(name, done))])),
      summary: () =>
        Promise.resolve(kept === 1 ? [] : [`movement pruning: ${(100 * share(done)).toPrecision(3)} % of the weights are kept; products are dense, so no step became faster`]),
      state: () => ({ data: { done }, tensors: state }),
      load({ data, tensors }) {
        done = (data as { done: number }).done
        state = tensors
      },
    }
  },
})
