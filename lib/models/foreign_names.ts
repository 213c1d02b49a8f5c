// Whichever model it is: how its parameters and matrices are named in the transformers library, if it is known there.
import type { Module } from '../nn/module'
import { linearTargets, type LinearTarget, type LinearPart } from '../nn/linear_parts'
import { Bert } from './bert'
import { bertNames } from './bert_names'
import type { ForeignName } from './huggingface'

/** null for a model that has no counterpart there. */
export function foreignNamesOf(model: Module<never, unknown>): ForeignName[] | null {
  if ((model as unknown) instanceof Bert) return bertNames(model as unknown as Bert)
  const named = model as unknown as { foreignNames?(): ForeignName[] }
  return named.foreignNames ? named.foreignNames() : null
}

export interface NamedMatrix extends Pick<LinearTarget, 'path' | 'layer'> {
  part: LinearPart
  /** Such as `model.layers.0.self_attn.q_proj`, or our own path and the part's name. */
  name: string
}

/** Every matrix of the model's linear layers with its foreign name. */
export function namedMatrices(model: Module<never, unknown>): NamedMatrix[] {
  const foreign = new Map((foreignNamesOf(model) ?? []).map(({ ours, theirs }) => [ours, theirs]))
  return linearTargets(model).flatMap(({ path, layer, parts }) => {
    const theirs = foreign.get(`${path}.weight`)
    const own = (part: LinearPart) => (parts.length > 1 ? `${path}.${part.name}` : path)
    return parts.map((part, i) => ({ path, layer, part, name: theirs ? theirs[i].replace(/\.weight$/, '') : own(part) }))
  })
}
