// The matrices inside a model by the names that the literature gives them: q, k, v, out, gate, up, down. Ours hold several
// in one (queries, keys and values; gate and up), so that each is a range of rows.
import { Attention } from './attention'
import { CrossAttention } from './cross_attention'
import { Linear } from './linear'
import { MLP } from './mlp'
import type { Module } from './module'

/** Rows [from, to) of a layer's weight. */
export interface LinearPart {
  name: string
  from: number
  to: number
}

export interface LinearTarget {
  /** Such as `blocks.0.attention.qkv`. */
  path: string
  layer: Linear
  parts: LinearPart[]
}

/** Ranges of these sizes, one after another. */
function ranges(names: readonly string[], sizes: readonly number[]): LinearPart[] {
  let from = 0
  return names.map((name, i) => ({ name, from, to: (from += sizes[i]) }))
}

/** Every linear layer of attention and feed-forward, with its parts; heads and poolers have their own name as one part. */
export function linearTargets(model: Module<never, unknown>): LinearTarget[] {
  const found: LinearTarget[] = []
  const known = new Set<Linear>()
  const take = (path: string, layer: Linear, names: readonly string[], sizes: readonly number[]) => {
    if (known.has(layer)) return
    known.add(layer)
    found.push({ path, layer, parts: ranges(names, sizes) })
  }
  const modules = model.namedModules().filter(([path]) => !/(^|\.)adapter(\.|$)/.test(path))
  for (const [prefix, module] of modules as [string, unknown][]) {
    const at = (field: string) => (prefix ? `${prefix}.${field}` : field)
    if (module instanceof Attention) {
      const { heads, kvHeads, headWidth } = module
      take(at('qkv'), module.qkv, ['q', 'k', 'v'], [heads * headWidth, kvHeads * headWidth, kvHeads * headWidth])
      take(at('out'), module.out, ['out'], [module.out.shape[0]])
    } else if (module instanceof CrossAttention) {
      const [rows] = module.q.shape
      take(at('q'), module.q, ['q'], [rows])
      take(at('kv'), module.kv, ['k', 'v'], [rows, rows])
      take(at('out'), module.out, ['out'], [module.out.shape[0]])
    } else if (module instanceof MLP) {
      const hidden = module.down.shape[1]
      const gated = module.up.shape[0] === 2 * hidden
      take(at('up'), module.up, gated ? ['gate', 'up'] : ['up'], gated ? [hidden, hidden] : [hidden])
      take(at('down'), module.down, ['down'], [module.down.shape[0]])
    }
  }
  for (const [path, module] of modules as [string, unknown][]) {
    if (module instanceof Linear) take(path, module, [path.split('.').at(-1)!], [module.shape[0]])
  }
  return found
}

/** Matrices of attention and feed-forward, which `all` means; not heads. */
export const partNames = ['q', 'k', 'v', 'out', 'gate', 'up', 'down'] as const
