// The fused updates: one native call for all tensors of a group (native/ops/optimizer_group.h), and what optimisers that are
// composed of operators need to obey the clip tensor.
import type { OpAttrs, OpName } from '../native/ops.gen'
import type { Parameter } from '../nn/parameter'
import { cast } from '../ops/cast'
import { concat } from '../ops/concat'
import { ones } from '../ops/creation'
import { mul } from '../ops/elementwise'
import { slice } from '../ops/slice'
import { run, type Tensor } from '../tensor/tensor'

/** The tensors of one fused update, in the same order in every list. */
export interface GroupTensors {
  parameters: readonly Tensor[]
  grads: readonly Tensor[]
  /** One list for each state tensor that the rule has. */
  states?: readonly (readonly Tensor[])[]
  /** Low-precision copies to refresh. */
  copies?: readonly (Tensor | null)[]
  /** [2]: the factor of the gradients, and not 0 where nothing may change. */
  clip?: Tensor | null
}

type GroupOp = { [N in OpName]: OpAttrs[N] extends { count: number } ? N : never }[OpName]

/** Runs a fused update in place. Returns what the operator makes beside it. */
export function updateGroup<N extends GroupOp>(op: N, tensors: GroupTensors, attrs: Omit<OpAttrs[N], 'count'>): Tensor[] {
  const { parameters, grads, states = [], copies = [], clip } = tensors
  if (!parameters.length) return []
  const refreshed = copies.some((copy) => copy !== null) ? copies : []
  return run(op, [clip, ...parameters, ...grads, ...states.flat(), ...refreshed], { count: parameters.length, ...attrs } as unknown as OpAttrs[N])
}

/** Parameters, gradients and copies of a group's members. */
export function membersOf(named: readonly [string, Parameter][]): { parameters: Tensor[]; grads: Tensor[]; copies: (Tensor | null)[] } {
  return {
    parameters: named.map(([, parameter]) => parameter.tensor),
    grads: named.map(([, parameter]) => parameter.grad!),
    copies: named.map(([, parameter]) => parameter.copy),
  }
}

/** The matrices that a fused one holds, as views of it: queries, keys and values apart. */
export function partsOf(tensor: Tensor, parts: readonly number[] | null): Tensor[] {
  if (!parts) return [tensor]
  const row = tensor.size / tensor.shape[0]
  let first = 0
  return parts.map((rows) => {
    const part = tensor.viewAs([rows, ...tensor.shape.slice(1)], first * row)
    first += rows
    return part
  })
}

/** A clip tensor with the factor 1 and the flag of `clip`. */
export function skipOnly(clip: Tensor | null): Tensor | null {
  if (!clip) return null
  return concat([ones([1], { dtype: clip.dtype, device: clip.device }), slice(clip, [1], [2])])
}

/** A gradient times the factor of `clip`. */
export function scaled(grad: Tensor, clip: Tensor | null): Tensor {
  return clip ? mul(grad, cast(slice(clip, [0], [1]), grad.dtype)) : grad
}

/**
 * A group's members as layers for optimisers that look at norms: fused matrices as their parts. Those that adapt (matrices,
 * and everything with weight decay) come apart from those that do not.
 */
export function layersOf(
  named: readonly [string, Parameter][],
  weightDecay: number,
  statesOf: (name: string, parameter: Parameter) => Tensor[],
): { layers: Required<Omit<GroupTensors, 'clip'>>; adapt: boolean }[] {
  const adapts = (parameter: Parameter) => parameter.shape.length >= 2 || weightDecay > 0
  return [true, false].flatMap((adapt) => {
    const members = named.filter(([, parameter]) => adapts(parameter) === adapt)
    if (!members.length) return []
    const views = (pick: (name: string, parameter: Parameter) => Tensor) =>
      members.flatMap(([name, parameter]) => partsOf(pick(name, parameter), parameter.parts))
    const states = members.map(([name, parameter]) => statesOf(name, parameter))
    const layers = {
      parameters: views((_, parameter) => parameter.tensor),
      grads: views((_, parameter) => parameter.grad!),
      states: states[0].map((_, k) => members.flatMap(([, { parts }], i) => partsOf(states[i][k], parts))),
      copies: members.flatMap(([, { copy, parts }]) => (copy ? partsOf(copy, parts) : (parts ?? [0]).map(() => null))),
    }
    return [{ layers, adapt }]
  })
}
