// Measures the curvature that the optimiser sophia steps by: every `interval` steps, labels are drawn from the model's own
// predictions, and the squares of the gradient of their mean cross-entropy go into a running mean (Gauss-Newton-Bartlett).
// Costs a forward and a backward pass, and one product for the logits, at those steps. Source: Liu et al., arXiv 2305.14342.
import { backward } from '../autograd/backward'
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import { cast } from '../ops/cast'
import { zerosLike } from '../ops/creation'
import { add, addScalar, greaterEqual, log, neg } from '../ops/elementwise'
import { rand } from '../ops/random'
import { argmax } from '../ops/reductions'
import { where } from '../ops/where'
import { Sophia } from '../optim/sophia'
import { scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import { defineTechnique, type Batch, type TrainingRun } from './technique'

/** Labels i32 [...] drawn from softmax(logits [..., classes]), as the largest of logits plus Gumbel noise. */
export function sampleLabels(logits: Tensor): Tensor {
  const uniform = rand(logits.shape, { device: logits.device })
  // In (0, 1): the generator gives multiples of 2^-24 from 0 on.
  const noise = neg(log(neg(log(addScalar(uniform, 2 ** -25)))))
  return cast(argmax(add(cast(logits, 'f32'), noise), -1), 'i32')
}

interface Predictor {
  logits(ids: Tensor, inputs: object): Tensor
  loss(ids: Tensor, targets: Tensor, inputs: object, options: { scale: number }): Tensor
}

export const sophiaCurvatureEntry = defineTechnique({
  name: 'sophia_curvature',
  title: 'Curvature for the optimizer sophia, from labels that the model draws',
  category: 'optimisation',
  source: 'Liu et al., arXiv 2305.14342',
  settings: { interval: { default: 10, min: 1, integer: true, help: 'steps between measurements' } },
  onlyWith: { kind: 'optimizer', name: 'sophia', why: 'it measures the curvature that sophia alone steps by' },
  neutral: 'none: sophia cannot step without it',
  make: ({ interval }) => {
    let run: TrainingRun
    let optimizer: Sophia
    return {
      setup(given) {
        if (!(given.optimizer instanceof Sophia) || !('logits' in given.model)) {
          throw new LeanformerError(
            'ERR_OPTION',
            'sophia_curvature: the optimizer is not sophia, or the model has no logits',
            'give --optimizer sophia, or leave the technique out',
          )
        }
        run = given
        optimizer = given.optimizer
      },
      step(next, { step, batches }) {
        if (step % interval === 0) {
          const tokens = batches.reduce((sum, batch) => sum + batch.tokens, 0)
          optimizer.zeroGrad()
          for (const batch of batches) {
            scope(() => {
              const loss = sampledLoss(run, batch, tokens)
              // As in the trainer: with layers left out nothing may be trained.
              if (loss.requiresGrad) backward(loss)
            })
          }
          optimizer.measure(tokens)
          optimizer.zeroGrad()
        }
        next()
      },
    }
  },
})

function sampledLoss({ model, parameters }: TrainingRun, batch: Batch, tokens: number): Tensor {
  const { device } = [...parameters.values()][0].tensor
  const ids = (values?: Int32Array) => (values ? tensor(values, [batch.batch, batch.context], { device }) : null)
  const inputs = { segments: ids(batch.segments), positions: ids(batch.positions) }
  const predictor = model as unknown as Predictor
  const targets = ids(batch.targets)!
  const labels = noGrad(() => scope(() => sampleLabels(predictor.logits(ids(batch.inputs)!, inputs))))
  // Where no target counts, no label does.
  const counted = where(greaterEqual(targets, zerosLike(targets)), labels, targets)
  return predictor.loss(ids(batch.inputs)!, counted, inputs, { scale: 1 / tokens })
}
