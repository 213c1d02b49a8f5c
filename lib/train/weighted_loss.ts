// The loss of a micro-batch whose rows have weights: sum over rows of weight times the row's summed cross-entropy, times
// `scale`. Unlike loss(), it holds the logits.
import { LeanformerError } from '../native/errors'
import { crossEntropy } from '../ops/cross_entropy'
import { cast } from '../ops/cast'
import { mul, mulScalar } from '../ops/elementwise'
import { sum } from '../ops/reductions'
import { tensor, type Tensor } from '../tensor/tensor'

interface Predictor {
  logits?(ids: Tensor, inputs: object): Tensor
}

export function weightedLoss(
  model: object,
  ids: Tensor,
  targets: Tensor,
  inputs: object,
  { weights, scale }: { weights: Float32Array; scale: number },
): Tensor {
  const predictor = model as Predictor
  if (!predictor.logits) {
    throw new LeanformerError('ERR_OPTION', 'trainer: rows with weights need a model with logits()', 'leave out techniques that weight samples')
  }
  // A loss that a technique put in the place of the model's own has no rows.
  if (Object.hasOwn(model, 'loss')) {
    throw new LeanformerError('ERR_OPTION', "trainer: rows with weights need the model's own loss, and a technique replaced it", 'leave out distil, or techniques that weight samples')
  }
  const losses = crossEntropy(predictor.logits(ids, inputs), targets, { reduction: 'none' })
  const rows = cast(tensor(weights, [weights.length, 1], { device: ids.device }), losses.dtype)
  return mulScalar(sum(mul(losses, rows)), scale)
}
