// Rows of a table by id: token embeddings, with positions added in the same pass.
import { record, type GradientContext } from '../autograd/tape'
import { run1, type Tensor } from '../tensor/tensor'

export interface EmbeddingOptions {
  /** [positions, width]: a row of it is added to every result. */
  positionTable?: Tensor | null
  /** i32, of the ids' shape; default: the place along the ids' last axis, plus `offset`. */
  positions?: Tensor | null
  offset?: number
}

/** The gradient of one table, added in place to the one it has where possible. */
function tableGradient(grad: Tensor, ids: Tensor | null, table: Tensor, context: GradientContext, i: number, offset: number) {
  const existing = context.existing(i)
  const inPlace = existing !== null && existing.dtype === (grad.dtype === 'f64' ? 'f64' : 'f32')
  const rows = ids ? grad.viewAs([ids.size, table.shape[1]]) : grad
  const fresh = run1('embedding_backward', [rows, ids, inPlace ? existing : null], { rows: table.shape[0], offset })
  return inPlace ? existing : fresh
}

/**
 * weight[ids] (+ positionTable[positions]). weight [count, width], ids i32 [...] -> [..., width] in the weight's format.
 * @throws ERR_SHAPE, ERR_DTYPE; an id outside the table fails the device's stream with ERR_KERNEL
 */
export function embedding(weight: Tensor, ids: Tensor, options: EmbeddingOptions = {}): Tensor {
  const { positionTable, positions, offset = 0 } = options
  const out = run1('embedding', [weight, ids, positionTable, positions], { offset })
  record(
    'embedding',
    [weight, positionTable],
    [out],
    [weight, ids, positionTable, positions],
    ([grad], [w, i, table, places], context) => [
      context.needs(0) ? tableGradient(grad!, i, w, context, 0, 0) : null,
      table && context.needs(1) ? tableGradient(grad!, places ?? null, table, context, 1, offset) : null,
    ],
    { offset },
  )
  return out
}
