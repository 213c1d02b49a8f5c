// Losses of a model on batches of a run's text.
import { noGrad } from '../autograd/tape'
import type { TextModel } from '../models/model_entry'
import type { Batch } from '../techniques/technique'
import type { Device } from '../tensor/device'
import { scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import type { EvaluationSource } from '../train/trainer'

/** A micro-batch's mean loss. */
export function lossOf(model: TextModel, { inputs, targets, segments, positions, batch, context }: Batch, device: Device): Tensor {
  const ids = (values?: Int32Array) => (values ? tensor(values, [batch, context], { device }) : null)
  return model.loss(ids(inputs)!, ids(targets)!, { segments: ids(segments), positions: ids(positions) }, {})
}

/** Mean loss of the tokens of some batches, without gradients. */
export async function meanLoss(model: TextModel, batches: Pick<EvaluationSource, 'length' | 'batch'>, device: Device): Promise<number> {
  let [sum, tokens] = [0, 0]
  for (let i = 0; i < batches.length; ++i) {
    const batch = batches.batch(i)
    const value = scope(() => noGrad(() => lossOf(model, batch, device)))
    sum += (await value.item()) * batch.tokens
    tokens += batch.tokens
    value.dispose()
  }
  return sum / tokens
}
