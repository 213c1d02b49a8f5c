// What every optimiser of this folder is. One native call updates all parameters of a group. Clipping and the skipping of
// non-finite gradients come in through a tensor on the device, so that an update never waits for the host.
import { resolveSettings, type Combinable, type Entry, type Settings, type Values } from '../catalog/entry'
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import type { Parameter } from '../nn/parameter'
import { zeros } from '../ops/creation'
import { keep, scope } from '../tensor/scope'
import type { Pager } from '../tensor/pager'
import type { Tensor } from '../tensor/tensor'

export interface ParameterGroup {
  /** By path, as from Module.namedParameters(). */
  parameters: Map<string, Parameter>
  weightDecay?: number
  /** Factor of the learning rate; default 1. */
  lrScale?: number
  /** Factor of eps, for optimisers of Adam's kind; default 1. */
  epsScale?: number
}

/**
 * The usual two groups: matrices and tables with weight decay, vectors (biases, norm gains, gates) without. Parameters
 * whose scales an initialiser changed (muP, Fixup) make groups of their own.
 */
export function decayGroups(parameters: Map<string, Parameter>, weightDecay: number): ParameterGroup[] {
  const groups = new Map<string, ParameterGroup>()
  for (const matrix of [true, false]) {
    for (const [name, parameter] of parameters) {
      if (parameter.shape.length >= 2 !== matrix) continue
      const { lr, weightDecay: decay, eps } = parameter.scales
      const key = [matrix, lr, decay, eps].join()
      const group: ParameterGroup = groups.get(key) ?? {
        parameters: new Map(),
        weightDecay: matrix ? weightDecay * decay : 0,
        ...(lr === 1 ? {} : { lrScale: lr }),
        ...(eps === 1 ? {} : { epsScale: eps }),
      }
      group.parameters.set(name, parameter)
      groups.set(key, group)
    }
  }
  return [...groups.values()]
}

/** State that is away between updates, which are made in pieces then. */
export interface StatePaging {
  pager: Pager
  /** Bytes of the parameters of a piece, which has at least one parameter. Its gradients are released after its update. */
  pieceBytes: number
  /** Whether gradients are away until their piece's turn. */
  gradients: boolean
}

/** Numbers of narrow masters that are f32 at a time. */
const mostWide = 2 ** 22

/** A group's members in pieces of at most so many numbers, or of one member. */
function inPieces(named: [string, Parameter][], most: number): [string, Parameter][][] {
  const pieces: [string, Parameter][][] = []
  let room = -1
  for (const member of named) {
    const { size } = member[1].tensor
    if (size > room) {
      pieces.push([])
      room = Math.max(most, size)
    }
    room -= size
    pieces[pieces.length - 1].push(member)
  }
  return pieces
}

/** A group's members cut into updates: those with f32 masters at once, of narrow ones as many as fit. */
function updatedTogether(named: [string, Parameter][]): [string, Parameter][][] {
  const whole = named.filter(([, parameter]) => !parameter.isNarrow)
  const narrow = named.filter(([, parameter]) => parameter.isNarrow)
  return [...(whole.length ? [whole] : []), ...inPieces(narrow, mostWide)]
}

export interface OptimizerState {
  tensors: Map<string, Tensor>
  steps: number
  scalars?: Record<string, number>
}

export abstract class Optimizer {
  /** What it can be combined with, where it was made by its entry. */
  entry?: Combinable
  /** Updates made so far; skipped ones do not count. */
  steps = 0
  /** Other numbers that an exact resume needs. */
  protected scalars: Record<string, number> = {}
  /** Set by offloading. */
  paging: StatePaging | null = null
  private before: Record<string, number> = {}
  private initial: Record<string, number> | undefined
  private readonly slots = new Map<string, Map<string, Tensor>>()
  /** Names in the order of the last update that was made parameter by parameter: what is away comes back ahead of its turn. */
  private order: string[] = []

  constructor(readonly groups: ParameterGroup[]) {}

  /**
   * One update from the parameters' gradients. `clip` is [2] on the device: every gradient is multiplied by its first
   * number, and nothing changes when the second is not 0. See clipGradNorm().
   */
  step(lr: number, clip?: Tensor | null): void {
    this.beginStep(lr)
    for (const group of this.groups) this.updateMembers(group, [...group.parameters], lr, clip ?? null)
  }

  /**
   * One update made parameter by parameter: the function updates the one with this master, as step() would, and releases its
   * gradient. Called from backward()'s `complete`, it keeps the gradients of one layer alive at a time, not those of all.
   */
  stepByParameter(lr: number): (master: Tensor, clip?: Tensor | null) => void {
    this.beginStep(lr)
    const homes = new Map(
      this.groups.flatMap((group) => [...group.parameters].map((member) => [member[1].tensor, { group, member }] as const)),
    )
    const ahead = this.readAhead(this.order)
    this.order = []
    return (master, clip = null) => {
      const home = homes.get(master)
      if (!home) return
      ahead?.(this.order.length)
      this.order.push(home.member[0])
      this.updateMembers(home.group, [home.member], lr, clip, this.paging && { ...this.paging, gradients: false })
      home.member[1].zeroGrad()
    }
  }

  /** Begins to bring the state of the first of `names`, a piece of them; the result, of those from another place on. */
  private readAhead(names: readonly string[]): ((place: number) => void) | null {
    if (!this.paging) return null
    const { pager, pieceBytes } = this.paging
    const states = names.map((name) => [...this.slotsOf(name).values()])
    const sizes = states.map(([state]) => 4 * (state?.size ?? 0))
    let [next, bytes] = [0, 0]
    const from = (place: number) => {
      if (place > 0) bytes -= sizes[place - 1] ?? 0
      for (; next < names.length && (next <= place || bytes + sizes[next] <= pieceBytes); ++next) {
        for (const state of states[next]) pager.prefetch(state)
        bytes += sizes[next]
      }
    }
    from(0)
    return from
  }

  private beginStep(lr: number): void {
    this.steps++
    this.initial ??= { ...this.scalars }
    this.before = { ...this.scalars }
    this.begin(lr)
  }

  private updateMembers(group: ParameterGroup, members: [string, Parameter][], lr: number, clip: Tensor | null, paging = this.paging): void {
    // Parameters without a gradient are left alone, not treated as if it were zero.
    const named = members.filter(([, parameter]) => parameter.grad !== null)
    if (!named.length) return
    const update = (piece: [string, Parameter][]) => {
      for (const some of updatedTogether(piece)) {
        noGrad(() => scope(() => this.updateSome(some, lr * (group.lrScale ?? 1), group.weightDecay ?? 0, clip, group)))
      }
    }
    if (paging) this.updateInPieces(named, paging, update)
    else update(named)
  }

  private updateInPieces(named: [string, Parameter][], { pager, pieceBytes, gradients }: StatePaging, update: (piece: [string, Parameter][]) => void): void {
    if (gradients) for (const [, parameter] of named) pager.pageOut(parameter.grad!)
    const most = Math.floor(pieceBytes / 4)
    // The large ones last: then the gradients before them have made room for their state.
    const pieces = [...inPieces(named.filter(([, { tensor }]) => tensor.size <= most), most), ...inPieces(named.filter(([, { tensor }]) => tensor.size > most), most)]
    const states = (piece: [string, Parameter][]) => piece.flatMap(([name]) => [...this.slotsOf(name).values()])
    for (const [i, piece] of pieces.entries()) {
      const next = pieces[i + 1] ?? []
      // What is larger than a piece should not be there any longer than it has to.
      if (next[0]?.[1].tensor.size <= most) for (const state of states(next)) pager.prefetch(state)
      if (gradients) for (const [, parameter] of next) pager.prefetch(parameter.grad!)
      update(piece)
      for (const state of states(piece)) pager.pageOut(state)
      for (const [, parameter] of piece) parameter.zeroGrad()
    }
  }

  /** An update in which f32 numbers stand in the place of narrow masters. */
  private updateSome(some: [string, Parameter][], lr: number, weightDecay: number, clip: Tensor | null, group: ParameterGroup): void {
    const narrow = some.filter(([, parameter]) => parameter.isNarrow).map(([, parameter]) => parameter.widen())
    try {
      this.update(some, lr, weightDecay, clip, group)
    } finally {
      for (const back of narrow) back(this.steps)
    }
  }

  /** Takes the last step() out of the counts: it turned out to be skipped on the device. */
  undo(): void {
    this.steps--
    this.scalars = this.before
  }

  /** The weights to evaluate and to publish, by parameter, where they are not those that train; null: they are. */
  evaluationWeights(): Map<string, Tensor> | null {
    return null
  }

  /** Once a step, before the groups are updated. */
  protected begin(_lr: number): void {}

  /** Updates parameters of one group; `lr` and `weightDecay` have the group's factors in them. */
  protected abstract update(
    named: [string, Parameter][],
    lr: number,
    weightDecay: number,
    clip: Tensor | null,
    group: ParameterGroup,
  ): void

  /** The state tensor `slot` of a parameter; at first as `make` gives it, or zeros like the master. */
  protected slot(slot: string, name: string, parameter: Parameter, make?: () => Tensor): Tensor {
    let byName = this.slots.get(slot)
    if (!byName) this.slots.set(slot, (byName = new Map()))
    let found = byName.get(name)
    if (!found) {
      const { shape, device, dtype } = parameter.tensor
      byName.set(name, (found = keep(make ? make() : zeros(shape, { device, dtype }))))
    }
    return found
  }

  /** The state tensors of a parameter, by slot: for masks and growth, which must change them with it. */
  slotsOf(name: string): Map<string, Tensor> {
    const found = new Map<string, Tensor>()
    for (const [slot, byName] of this.slots) if (byName.has(name)) found.set(slot, byName.get(name)!)
    return found
  }

  zeroGrad(): void {
    for (const group of this.groups) for (const parameter of group.parameters.values()) parameter.zeroGrad()
  }

  /** State tensors by `slot.parameter`, and the rest as plain data. */
  state(): OptimizerState {
    const tensors = new Map<string, Tensor>()
    for (const [slot, byName] of this.slots) for (const [name, value] of byName) tensors.set(`${slot}.${name}`, value)
    return { tensors, steps: this.steps, scalars: { ...this.scalars } }
  }

  /** Takes over tensors and counts as state() gave them. @throws ERR_CHECKPOINT for a parameter that is not here */
  load(state: OptimizerState): void {
    const known = new Set(this.groups.flatMap((group) => [...group.parameters.keys()]))
    this.initial ??= { ...this.scalars }
    this.disposeState()
    for (const [key, value] of state.tensors) {
      const dot = key.indexOf('.')
      const slot = key.slice(0, dot)
      const name = key.slice(dot + 1)
      if (!known.has(name)) {
        throw new LeanformerError('ERR_CHECKPOINT', `optimizer: state for '${name}', which is not a parameter of this model`)
      }
      const byName = this.slots.get(slot) ?? new Map<string, Tensor>()
      this.slots.set(slot, byName.set(name, keep(value)))
    }
    this.steps = state.steps
    this.scalars = { ...this.scalars, ...state.scalars }
  }

  /** Forgets all state, as if no step had been made. */
  reset(): void {
    this.disposeState()
    this.steps = 0
    this.scalars = { ...(this.initial ?? this.scalars) }
  }

  /** Releases the state; the parameters stay. */
  dispose(): void {
    this.disposeState()
  }

  private disposeState(): void {
    for (const byName of this.slots.values()) for (const value of byName.values()) value.dispose()
    this.slots.clear()
  }
}

/** An optimiser's file: what it says of itself, and how one is made. */
export interface OptimizerEntry<S extends Settings = Settings> extends Entry<S> {
  kind: 'optimizer'
  create(groups: ParameterGroup[], settings?: Partial<Values<S>>): Optimizer
}

/** Makes the entry that an optimiser's file exports; create() checks its settings. */
export function defineOptimizer<const S extends Settings>(
  entry: Omit<Entry<S>, 'category'> & { make(groups: ParameterGroup[], values: Values<S>): Optimizer },
): OptimizerEntry<S> {
  const { make, ...rest } = entry
  const whole = { ...rest, category: 'optimisation' as const, kind: 'optimizer' as const }
  const create = (groups: ParameterGroup[], settings?: Partial<Values<S>>) => Object.assign(make(groups, resolveSettings(whole, settings)), { entry: whole })
  return { ...whole, create }
}

/** @throws ERR_OPTION for a value outside [0, 1) */
export function checkFractions(name: string, values: Readonly<Record<string, number>>): void {
  for (const [key, value] of Object.entries(values)) {
    if (!(value >= 0 && value < 1)) throw new LeanformerError('ERR_OPTION', `${name}: ${key} must be at least 0 and below 1, got ${value}`)
  }
}
