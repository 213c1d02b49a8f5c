// What each parameter of a transformer is for, read from its path, so that initialisers of whole models can tell them
// apart: blocks.3.attention.qkv.weight, decoder.1.cross.kv.weight, token_embedding.weight, norm.weight, head.weight.
import { concat } from '../ops/concat'
import type { Initializer } from './initializer'
import type { InitialisedParameter, ParameterTree } from './model_initializer'

/**
 * `out` and `down` are the last matrices of the attention and feed-forward branches. `gate` and `shift` are the trainable
 * scalars of branches, `position` the relative positions of GPSA; `vector` is every bias and norm parameter; `matrix` is any other.
 */
export type Role =
  | 'embedding' | 'qkv' | 'q' | 'kv' | 'out' | 'up' | 'down' | 'head' | 'gate' | 'shift' | 'position' | 'vector' | 'matrix'

export interface Part {
  path: string
  parameter: InitialisedParameter
  role: Role
  /** Rows of the matrices that lie on top of each other in this one: queries, keys, values; gate and up of SwiGLU. */
  rows: readonly number[]
  /** Whether the feed-forward branch it is in has three matrices. */
  gated: boolean
}

const patterns: readonly (readonly [RegExp, Role])[] = [
  [/(^|\.|_)(embedding|positions)\.weight$/, 'embedding'],
  [/attention\.qkv\.weight$/, 'qkv'],
  [/cross\.q\.weight$/, 'q'],
  [/cross\.kv\.weight$/, 'kv'],
  [/(attention|cross)\.out\.weight$/, 'out'],
  [/mlp\.up\.weight$/, 'up'],
  [/mlp\.down\.weight$/, 'down'],
  [/(^|\.)head\.weight$/, 'head'],
  [/attention\.position$/, 'position'],
  [/\.gate[12]?$/, 'gate'],
  [/shift[12]?$/, 'shift'],
]

/** Every parameter of a model with its role. */
export function partsOf(model: ParameterTree): Part[] {
  const parameters = model.namedParameters()
  return [...parameters].map(([path, parameter]) => {
    const found = patterns.find(([pattern]) => pattern.test(path))?.[1]
    const role = found ?? (parameter.shape.length < 2 ? 'vector' : 'matrix')
    const rows = rowsOf(path, parameter, role, parameters)
    const up = role === 'down' ? parameters.get(path.replace('down.weight', 'up.weight')) : undefined
    return { path, parameter, role, rows, gated: rows.length === 2 ? role === 'up' : up !== undefined && up.shape[0] > parameter.shape[1] }
  })
}

function rowsOf(path: string, { shape }: InitialisedParameter, role: Role, all: ReadonlyMap<string, InitialisedParameter>): number[] {
  const total = shape[0] ?? 1
  if (role === 'qkv') {
    // The rows of the queries are the columns of the product that follows attention.
    const queries = all.get(path.replace('qkv', 'out'))!.shape[1]
    return [queries, (total - queries) / 2, (total - queries) / 2]
  }
  if (role === 'kv') return [total / 2, total / 2]
  if (role !== 'up') return [total]
  const hidden = all.get(path.replace('up.weight', 'down.weight'))!.shape[1]
  return Array<number>(total / hidden).fill(hidden)
}

/** Layers of a model: its feed-forward branches. */
export const layersOf = (parts: readonly Part[]) => parts.filter(({ role }) => role === 'down').length

/** Residual branches of a model: two a layer in a decoder. */
export const branchesOf = (parts: readonly Part[]) => parts.filter(({ role }) => role === 'down' || role === 'out').length

/** Initialises matrices that lie on top of each other one by one. */
export function stacked(rows: readonly number[], inits: readonly Initializer[]): Initializer {
  if (rows.length === 1) return inits[0]
  return (shape, options) => concat(rows.map((count, i) => inits[i]([count, ...shape.slice(1)], options)))
}
