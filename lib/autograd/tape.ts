// The tape: one record per differentiable operator that ran, with what its gradient needs. Records hold aliases of saved
// tensors, so scopes may dispose the originals; they are released as backward() goes, or when the outermost scope closes.
import { LeanformerError } from '../native/errors'
import { keep, onOutermostClose, scope } from '../tensor/scope'
import { isFloating, type DType } from '../native/dtype'
import { currentBranch, type Branch } from '../tensor/branches'
import type { Recipe, Tensor } from '../tensor/tensor'

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
  /** Hands the gradient of output i over for good, kept: it need not live until the operator's gradient is complete. */
  takeOutput(i: number): Tensor
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
  /** By position in `saved`, what recall() makes again instead of being held. */
  recipes?: Map<number, Recipe & { versions: number[] }>
  gradient: GradientFunction
  /** The branch that the operator ran on; its gradient runs on the same. */
  branch: Branch | null
  /** Leaves that the gradient reaches without their being inputs: those of a part of the model that is run again. */
  leaves?: ReadonlySet<Tensor>
  /** Called when the backward pass comes to this record. */
  reached?: () => void
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
  for (const recipe of record.recipes?.values() ?? []) for (const tensor of recipe.inputs) tensor?.dispose()
  record.recipes = undefined
}

const hold = (tensor: Tensor | null | undefined) => (tensor ? keep(tensor.alias()) : null)
const versionsOf = (tensors: readonly (Tensor | null)[]) => tensors.map((tensor) => (tensor ? tensor.version : 0))

/** @throws ERR_ARGUMENT when a tensor that the record holds was changed in place */
function checkVersions(op: string, tensors: readonly (Tensor | null)[], versions: readonly number[]): void {
  tensors.forEach((tensor, i) => {
    if (tensor && tensor.version !== versions[i]) {
      throw new LeanformerError(
        'ERR_ARGUMENT',
        `backward: a tensor of shape [${tensor.shape.join(', ')}] that ${op} saved was changed in place since`,
        'call backward() before changing it, or change a copy',
      )
    }
  })
}

/** Makes `saved` of a record complete. @throws ERR_ARGUMENT when something that it needs was changed in place */
export function recall(record: TapeRecord): void {
  checkVersions(record.op, record.saved, record.versions)
  for (const [i, { inputs, versions, make }] of record.recipes ?? []) {
    checkVersions(record.op, inputs, versions)
    record.saved[i] = keep(scope(() => make(inputs)))
  }
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

interface Probe {
  /** Whether a tape would have had anything to record. */
  wanted: boolean
  /** The leaves that its records would have had as inputs. */
  leaves: Set<Tensor>
}
let probe: Probe | null = null

/** Runs `fn` without recording, and finds out what a tape would have recorded. */
export function probeGradients<T>(fn: () => T): Probe & { result: T } {
  const outer = probe
  const own: Probe = { wanted: false, leaves: new Set() }
  probe = own
  try {
    return { result: noGrad(fn), ...own }
  } finally {
    probe = outer
    if (outer) {
      outer.wanted ||= own.wanted
      for (const leaf of own.leaves) outer.leaves.add(leaf)
    }
  }
}

/** Whether an operator on these inputs would be recorded. */
export function recording(inputs: readonly (Tensor | null | undefined)[]): boolean {
  let wanted = false
  for (const input of inputs) {
    if (!input?.requiresGrad) continue
    wanted = true
    if (!probe) break
    probe.wanted = true
    if (input.leaf) probe.leaves.add(input.leaf)
  }
  return wanted && current !== null
}

let remakingCheap = false

/** Runs `fn` with the results of cheap operators made again in the backward pass instead of being held; see remakeFrom(). */
export function withCheapRemade<T>(fn: () => T): T {
  const before = remakingCheap
  remakingCheap = true
  try {
    return fn()
  } finally {
    remakingCheap = before
  }
}

/** Whether withCheapRemade() is in force. */
export function remakesCheap(): boolean {
  return remakingCheap && current !== null
}

/**
 * Says, while withCheapRemade() is in force, that `make(inputs)` gives `result` again, bit for bit: records then hold the
 * inputs in its place.
 */
export function remakeFrom(result: Tensor, inputs: readonly (Tensor | null | undefined)[], make: Recipe['make']): void {
  if (remakesCheap() && recording(inputs)) result.recipe = { inputs: inputs.map(hold), make }
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

/** The format of the gradient of a tensor. */
export const gradDTypeOf = (x: Tensor): DType => x.gradDType ?? x.dtype

/** record() for operators whose gradient reaches leaves that are not among their inputs. */
export function recordAlways(
  op: string,
  inputs: readonly (Tensor | null | undefined)[],
  outputs: readonly Tensor[],
  saved: readonly (Tensor | null | undefined)[],
  gradient: GradientFunction,
  attrs?: TapeRecord['attrs'],
  leaves?: TapeRecord['leaves'],
): void {
  for (const output of outputs) if (isFloating(output.dtype)) output.requiresGrad = true
  const recipes = new Map<number, Recipe & { versions: number[] }>()
  saved.forEach((tensor, i) => {
    const recipe = tensor?.recipe
    if (recipe) recipes.set(i, { inputs: recipe.inputs.map(hold), make: recipe.make, versions: versionsOf(recipe.inputs) })
  })
  const held = saved.map((tensor, i) => (recipes.has(i) ? null : hold(tensor)))
  current!.records.push({
    op,
    inputs: inputs.map((input) => ({
      id: input ? input.id : 0,
      needsGrad: input ? input.requiresGrad : false,
      leaf: input ? input.leaf : null,
      dtype: input ? gradDTypeOf(input.leaf ?? input) : 'f32',
    })),
    outputs: outputs.map((output) => output.id),
    outputShapes: outputs.map((output) => output.shape),
    saved: held,
    versions: versionsOf(held),
    gradient,
    branch: currentBranch(),
    ...(attrs ? { attrs } : {}),
    ...(recipes.size ? { recipes } : {}),
    ...(leaves ? { leaves } : {}),
  })
}

