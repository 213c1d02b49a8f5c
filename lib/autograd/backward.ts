// Reverse-mode differentiation: walks the tape backwards, adds up the gradients of every tensor and leaves those of the
// leaves in their `grad`. What a record saved and every inner gradient is released as soon as it was used.
import { LeanformerError } from '../native/errors'
import type { DType } from '../native/dtype'
import { currentBranch, enterBranch } from '../tensor/branches'
import { keep, scope } from '../tensor/scope'
import { run1, type Tensor } from '../tensor/tensor'
import { currentTape, gradDTypeOf, noGrad, recall, releaseSaved, type GradientContext, type Tape, type TapeRecord } from './tape'

function toDType(grad: Tensor, dtype: DType): Tensor {
  return grad.dtype === dtype ? grad : run1('cast', [grad], { dtype })
}

/** Adds to the gradient of a leaf. A first gradient is taken over as it is, unless somebody else can see its memory. */
function accumulateLeaf(leaf: Tensor, grad: Tensor, exclusive: boolean): void {
  if (leaf.grad === grad) return
  const same = toDType(grad, gradDTypeOf(leaf))
  if (leaf.grad) run1('accumulate', [leaf.grad, same], {})
  else if (same !== grad) leaf.grad = keep(same)
  else if (exclusive && grad.ownsMemory) leaf.grad = keep(grad.alias())
  else leaf.grad = keep(run1('copy', [grad], {}))
}

/** How a tape is walked. */
export interface WalkOptions {
  /** Sees every record with the gradients of its outputs, before its own gradient is taken. */
  observe?: (record: TapeRecord, outputGrads: (Tensor | null)[]) => void
  /** false: the gradients of leaves are not computed. Default true. */
  leaves?: boolean
  /**
   * Called once for each leaf with a gradient as soon as nothing can be added to it any more, and nothing that is still to
   * come reads the leaf: it may be changed in place, and its gradient taken away.
   */
  complete?: (leaf: Tensor) => void
}

/** Tells when the gradient of a leaf is complete: when all records that use it were passed. */
class Completion {
  private readonly uses = new Map<Tensor, number>()

  constructor(
    records: readonly TapeRecord[],
    private readonly complete: (leaf: Tensor) => void,
  ) {
    for (const record of records) for (const leaf of leavesOf(record)) this.uses.set(leaf, (this.uses.get(leaf) ?? 0) + 1)
  }

  passed(record: TapeRecord): void {
    for (const leaf of leavesOf(record)) {
      const left = this.uses.get(leaf)! - 1
      this.uses.set(leaf, left)
      if (left === 0 && leaf.grad) this.complete(leaf)
    }
  }
}

function leavesOf(record: TapeRecord): Set<Tensor> {
  const leaves = new Set(record.leaves)
  for (const { needsGrad, leaf } of record.inputs) if (needsGrad && leaf) leaves.add(leaf)
  return leaves
}

class Context implements GradientContext {
  constructor(
    private record: TapeRecord,
    private grads: Map<number, Tensor>,
    private leaves: boolean,
  ) {}
  needs(i: number): boolean {
    const { needsGrad, leaf } = this.record.inputs[i]
    return needsGrad && (this.leaves || !leaf)
  }
  dtype(i: number): DType {
    return this.record.inputs[i].dtype
  }
  existing(i: number): Tensor | null {
    return this.leaves ? (this.record.inputs[i].leaf?.grad ?? null) : null
  }
  takePartial(i: number): Tensor | null {
    const { id, leaf, dtype } = this.record.inputs[i]
    const partial = leaf ? undefined : this.grads.get(id)
    if (!partial || partial.dtype !== dtype) return null
    this.grads.delete(id)
    // Released with the scope of this record.
    const taken = partial.alias()
    partial.dispose()
    return taken
  }
  takeOutput(i: number): Tensor {
    const id = this.record.outputs[i]
    const grad = this.grads.get(id)!
    this.grads.delete(id)
    return grad
  }
}

/** Runs one tape from the gradients in `grads`, by tensor id. They must be kept; they are disposed here, like all inner ones. */
export function backwardTape(tape: Tape, grads: Map<number, Tensor>, options: WalkOptions = {}): void {
  noGrad(() => {
    const completion = options.complete && new Completion(tape.records, options.complete)
    const outer = currentBranch()
    try {
      for (let r = tape.records.length - 1; r >= 0; --r) {
        const record = tape.records[r]
        tape.records.length = r
        enterBranch(record.branch)
        pass(record, grads, options)
        completion?.passed(record)
      }
    } finally {
      enterBranch(outer)
    }
  })
}

function pass(record: TapeRecord, grads: Map<number, Tensor>, { observe, leaves = true }: WalkOptions): void {
  record.reached?.()
  const outputGrads = record.outputs.map((id) => grads.get(id) ?? null)
  if (outputGrads.some((grad) => grad !== null)) {
    recall(record)
    if (observe) scope(() => observe(record, outputGrads))
    step(record, outputGrads, grads, leaves)
  }
  releaseSaved(record)
  for (const id of record.outputs) {
    grads.get(id)?.dispose()
    grads.delete(id)
  }
}

function step(record: TapeRecord, outputGrads: (Tensor | null)[], grads: Map<number, Tensor>, leaves: boolean): void {
  scope(() => {
    const result = record.gradient(outputGrads, record.saved as Tensor[], new Context(record, grads, leaves))
    record.inputs.forEach((input, i) => {
      const grad = result[i]
      if (!grad || !input.needsGrad) return
      if (input.leaf && !leaves) return
      if (input.leaf) {
        accumulateLeaf(input.leaf, grad, result.indexOf(grad) === result.lastIndexOf(grad))
        return
      }
      const before = grads.get(input.id)
      if (before) {
        // Not in place: the memory of `before` may also be another tensor's gradient.
        grads.set(input.id, keep(run1('add', [before, toDType(grad, before.dtype)], {})))
        before.dispose()
      } else {
        grads.set(input.id, keep(grad.owner === null ? grad.alias() : grad))
      }
    })
  })
}

/**
 * Gradients of a scalar `loss` with respect to every leaf it depends on, added to the leaves' `grad`. `seed` replaces
 * the starting gradient of 1 and allows a `loss` of any shape. Consumes the tape.
 */
export function backward(loss: Tensor, seed?: Tensor | null, options: WalkOptions = {}): void {
  const tape = currentTape()
  if (tape === null || !loss.requiresGrad) {
    throw new LeanformerError(
      'ERR_ARGUMENT',
      'backward: this tensor does not depend on anything that wants gradients',
      'compute it outside of noGrad(), from parameters or from tensors with requiresGrad',
    )
  }
  if (!seed && loss.size !== 1) {
    throw new LeanformerError(
      'ERR_SHAPE',
      `backward: the loss has shape [${loss.shape.join(', ')}], needs one element`,
      'take its sum or mean, or give the starting gradient as the second argument',
    )
  }
  const start = seed ?? noGrad(() => run1('fill', [], { shape: [...loss.shape], value: 1, dtype: loss.dtype }, loss.device))
  if (loss.leaf) {
    noGrad(() => accumulateLeaf(loss.leaf!, start, false))
    return
  }
  const first = keep(start.alias())
  first.isOne = !seed
  const grads = new Map([[loss.id, first]])
  if (!seed) start.dispose()
  backwardTape(tape, grads, options)
  for (const grad of grads.values()) grad.dispose()
}

