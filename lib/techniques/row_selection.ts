// Choosing single rows (samples) of micro-batches: their scores, drawing by probability, and gathering into new batches.
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import { cast } from '../ops/cast'
import { crossEntropy } from '../ops/cross_entropy'
import { zerosLike } from '../ops/creation'
import { addScalar, greaterEqual, maximum, mul, mulScalar, sqrt, square, sub } from '../ops/elementwise'
import { gather } from '../ops/gather'
import { sum } from '../ops/reductions'
import { reshape } from '../ops/reshape'
import { softmax } from '../ops/softmax'
import { scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import { sampleGradientNorms } from './sample_norms'
import type { Batch, TrainingRun } from './technique'

export interface Row {
  batch: Batch
  row: number
}

/** What a row is chosen by: an upper bound of its gradient's norm from the last layer, the norm itself, or its loss. */
export type Score = 'last_layer' | 'exact' | 'loss'

interface Predictor {
  logits(ids: Tensor, inputs: object): Tensor
}

/**
 * |softmax(z) - onehot(y)| over the counted tokens of a row: the norm of the gradient at the last layer's pre-activation.
 * logits [rows, tokens, classes], targets i32 [rows, tokens] -> [rows]. Katharopoulos and Fleuret, arXiv 1803.00942.
 */
export function lastLayerNorm(logits: Tensor, targets: Tensor): Tensor {
  const [rows, tokens] = targets.shape
  const p = softmax(cast(logits, 'f32'))
  const counted = cast(greaterEqual(targets, zerosLike(targets)), 'f32')
  const chosen = reshape(gather(p, 2, reshape(maximum(targets, zerosLike(targets)), [rows, tokens, 1])), [rows, tokens])
  const squares = addScalar(sub(sum(square(p), 2), mulScalar(chosen, 2)), 1)
  return sqrt(maximum(sum(mul(squares, counted), 1), zerosLike(sum(squares, 1))))
}

/** Scores of a batch's rows, with dropout off. The tape and the parameters' gradients stay as they are. */
export async function rowScores({ model, parameters }: TrainingRun, batch: Batch, score: Score): Promise<Float64Array> {
  if (!('logits' in model)) {
    throw new LeanformerError('ERR_OPTION', 'scores of samples need a model with logits()', 'leave out techniques that choose samples')
  }
  const { device } = [...parameters.values()][0].tensor
  const ids = (values?: Int32Array) => (values ? tensor(values, [batch.batch, batch.context], { device }) : null)
  const wasTraining = model.training
  model.eval()
  const compute = (): Tensor => {
    const logits = (model as unknown as Predictor).logits(ids(batch.inputs)!, { segments: ids(batch.segments), positions: ids(batch.positions) })
    const targets = ids(batch.targets)!
    if (score === 'last_layer') return lastLayerNorm(logits, targets)
    if (score === 'loss') return sum(crossEntropy(logits, targets, { reduction: 'none' }), 1)
    return sampleGradientNorms(crossEntropy(logits, targets, { reduction: 'sum' }), batch.batch)
  }
  const scores = scope(() => (score === 'exact' ? compute() : noGrad(compute)))
  model.train(wasTraining)
  const values = await scores.toFloat64()
  scores.dispose()
  return values
}

/** All rows of some batches. */
export function rowsOf(batches: readonly Batch[]): Row[] {
  return batches.flatMap((batch) => Array.from({ length: batch.batch }, (_, row) => ({ batch, row })))
}

const countTargets = (targets: Int32Array) => targets.reduce((n, target) => n + (target >= 0 ? 1 : 0), 0)

/** The rows as one batch; `weights` are factors of their losses. */
export function gatherRows(rows: readonly Row[], weights?: readonly number[]): Batch {
  const { context } = rows[0].batch
  const collect = (pick: (batch: Batch) => Int32Array) => {
    const out = new Int32Array(rows.length * context)
    rows.forEach(({ batch, row }, i) => out.set(pick(batch).subarray(row * context, (row + 1) * context), i * context))
    return out
  }
  const has = (field: 'segments' | 'positions') => rows.every(({ batch }) => batch[field] !== undefined)
  const targets = collect((batch) => batch.targets)
  return {
    inputs: collect((batch) => batch.inputs),
    targets,
    batch: rows.length,
    context,
    tokens: countTargets(targets),
    ...(has('segments') ? { segments: collect((batch) => batch.segments!) } : {}),
    ...(has('positions') ? { positions: collect((batch) => batch.positions!) } : {}),
    ...(weights ? { weights: Float32Array.from(weights) } : {}),
  }
}
