// The tape: one record per differentiable operator that ran, with what its gradient needs. Records hold aliases of saved
// tensors, so scopes may dispose the originals; they are released as backward() goes, or when the outermost scope closes.
import { keep, onOutermostClose } from '../tensor/scope'
import { isFloating, type DType } from '../native/dtype'
import type { Tensor } from '../tensor/tensor'

/** What a gradient function may ask about its inputs. */
export interface GradientContext {
  /** Whether input i wants a gradient; null may be returned for the others. */
  needs(i: number): boolean
  /** The dtype that the gradient of input i should have: that of the leaf behind it, or of the input itself. */
  dtype(i: number): DType
  /**
   * A gradient that exists already for the leaf at input i. An operator that can add to memory adds its own to it and
   * returns it; others ignore it and return a fresh tensor.
   */
  existing(i: number): Tensor | null
  /**
   * The gradient that input i (not a leaf) has from elsewhere so far, in the input's format, or null. Taking it obliges the
   * operator to add it to the gradient it returns: an addition inside a kernel instead of a pass of its own.
   */
  takePartial(i: number): Tensor | null
}

/** Gradients of the inputs, in order, from those of the outputs (null: nothing flowed there) and the saved tensors. */
export type GradientFunction = (
  grads: (Tensor | null)[],
  saved: Tensor[],
  context: GradientContext,
) => (Tensor | null | undefined)[]

interface InputRecord {
  id: number
  needsGrad: boolean
  leaf: Tensor | null
  dtype: DType
}

export interface TapeRecord {
  op: string
  inputs: InputRecord[]
  outputs: number[]
  outputShapes: (readonly number[])[]
  saved: (Tensor | null)[]
  versions: number[]
  gradient: GradientFunction
  /** What else observers of the tape need to know of the operator. */
  attrs?: Readonly<Record<string, unknown>>
}

export class Tape {
  records: TapeRecord[] = []

  /** Forgets all records and releases what they saved. */
  clear(): void {
    for (const record of this.records) releaseSaved(record)
    this.records = []
  }
}

export function releaseSaved(record: TapeRecord): void {
  for (const tensor of record.saved) tensor?.dispose()
  record.saved = []
}

let current: Tape | null = new Tape()
onOutermostClose(() => current?.clear())

export function currentTape(): Tape | null {
  return current
}

/** Runs `fn` with another tape, or with none. */
export function withTape<T>(tape: Tape | null, fn: () => T): T {
  const before = current
  current = tape
  try {
    return fn()
  } finally {
    current = before
  }
}

/** Runs `fn` without recording: for evaluation, generation and updates. */
export function noGrad<T>(fn: () => T): T {
  return withTape(null, fn)
}

/** Whether an operator on these inputs would be recorded. */
export function recording(inputs: readonly (Tensor | null | undefined)[]): boolean {
  if (current === null) return false
  for (const input of inputs) if (input?.requiresGrad) return true
  return false
}

/**
 * Records that `outputs` came from `inputs` by `op`. `saved` is what `gradient` will be given; absent ones stay null.
 * Does nothing while no tape runs or no input wants a gradient.
 */
export function record(
  op: string,
  inputs: readonly (Tensor | null | undefined)[],
  outputs: readonly Tensor[],
  saved: readonly (Tensor | null | undefined)[],
  gradient: GradientFunction,
  attrs?: TapeRecord['attrs'],
): void {
  if (recording(inputs)) recordAlways(op, inputs, outputs, saved, gradient, attrs)
}

/** record() for operators whose gradient reaches leaves that are not among their inputs. */
export function recordAlways(
  op: string,
  inputs: readonly (Tensor | null | undefined)[],
  outputs: readonly Tensor[],
  saved: readonly (Tensor | null | undefined)[],
  gradient: GradientFunction,
  attrs?: TapeRecord['attrs'],
): void {
  for (const output of outputs) if (isFloating(output.dtype)) output.requiresGrad = true
  const held = saved.map((tensor) => (tensor ? keep(tensor.alias()) : null))
  current!.records.push({
    op,
    inputs: inputs.map((input) => ({
      id: input ? input.id : 0,
      needsGrad: input ? input.requiresGrad : false,
      leaf: input ? input.leaf : null,
      dtype: input ? (input.leaf ?? input).dtype : 'f32',
    })),
    outputs: outputs.map((output) => output.id),
    outputShapes: outputs.map((output) => output.shape),
    saved: held,
    versions: held.map((tensor) => (tensor ? tensor.version : 0)),
    gradient,
    ...(attrs ? { attrs } : {}),
  })
}

