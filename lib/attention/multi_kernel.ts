// Multi-kernel attention: groups of heads, and stretches of queries, attend by different kernels, accuracy against cost. A unit
// is (layer, key-value head, stretch of queries); units write disjoint parts of the result and see all keys their kernel
// allows, so nothing is merged and each has its kernel's own gradient. What a unit costs and what it does to the loss is
// measured on a trained model; adding up the changes of single units, the best assignments for every cost are found by the
// convex hulls of the units' choices (Lagrange), and the cheapest below an error limit is taken; chooseExactly() tries all.
// On a device with queues the kernels run beside each other (tensor/branches.ts), forward and backward: they begin when q, k and v
// are there, and what follows comes after all. Gradients of q, k and v are added up in one order, whatever ends first.
// The definition is ours: no publication of "multiple kernel queues" was found.
import { LeanformerError } from '../native/errors'
import { concat } from '../ops/concat'
import { slice } from '../ops/slice'
import { branches } from '../tensor/branches'
import type { Tensor } from '../tensor/tensor'
import type { AttentionKernel } from './kernels'

/** Which kernel the queries from `from` up to `to` (without it; Infinity for the rest) of a key-value head go through. */
export interface Stretch {
  from: number
  to: number
  kernel: string
}

/** The stretches of each key-value head of one layer. Plain data, to be saved with a model. */
export type LayerAssignment = readonly (readonly Stretch[])[]

function check(assignment: LayerAssignment, kernels: Readonly<Record<string, AttentionKernel>>): void {
  const wrong = (text: string, hint?: string) => new LeanformerError('ERR_OPTION', `multi_kernel: ${text}`, hint)
  for (const [head, stretches] of assignment.entries()) {
    let at = 0
    for (const { from, to, kernel } of stretches) {
      if (from !== at || to <= from) throw wrong(`the stretches of head ${head} do not follow each other`, 'the first begins at 0, each at the end of the one before')
      if (!(kernel in kernels)) throw wrong(`${kernel} is not a kernel here`, `there are: ${Object.keys(kernels).join(', ')}`)
      at = to
    }
    if (at !== Infinity) throw wrong(`the stretches of head ${head} end at ${at}`, 'the last ends at Infinity')
  }
}

/**
 * Assignments of all layers as text: layers with `/` between them, key-value heads with `+`, stretches with `-`, each a kernel and,
 * but for the last, `@` and where it ends: `window@64-softmax+linear/softmax+softmax`.
 */
export function formatAssignment(layers: readonly LayerAssignment[]): string {
  const stretch = ({ kernel, to }: Stretch) => (to === Infinity ? kernel : `${kernel}@${to}`)
  return layers.map((heads) => heads.map((stretches) => stretches.map(stretch).join('-')).join('+')).join('/')
}

/** The opposite of formatAssignment(). @throws ERR_OPTION */
export function parseAssignment(text: string): LayerAssignment[] {
  return text.split('/').map((layer) => layer.split('+').map((head) => {
    let from = 0
    return head.split('-').map((part) => {
      const [, kernel, end] = /^([a-z][a-z0-9_]*)(?:@([1-9]\d*))?$/.exec(part) ?? []
      if (!kernel) throw new LeanformerError('ERR_OPTION', `multi_kernel: '${part}' of '${head}' is no stretch`, 'a kernel, and where it is not the last @ and its end, such as window@64-softmax')
      const stretch = { from, to: end ? Number(end) : Infinity, kernel }
      from = stretch.to
      return stretch
    })
  }))
}

/** The kernel that shares its work out so. Heads next to each other with equal stretches go together. */
export function multiKernel(assignment: LayerAssignment, kernels: Readonly<Record<string, AttentionKernel>>): AttentionKernel {
  check(assignment, kernels)
  return (q, k, v, options) => {
    const { heads, kvHeads = heads, causal } = options
    if (assignment.length !== kvHeads) {
      throw new LeanformerError('ERR_OPTION', `multi_kernel: an assignment for ${assignment.length} key-value heads, but there are ${kvHeads}`)
    }
    if (!causal && assignment.some((stretches) => stretches.length > 1)) {
      throw new LeanformerError('ERR_OPTION', 'multi_kernel: stretches of queries need causal attention', 'give each head one stretch')
    }
    const group = heads / kvHeads
    const [batch, queries, , width] = q.shape
    const keys = k.shape[1]
    const part = (x: Tensor, [t0, t1]: readonly [number, number], [h0, h1]: readonly [number, number]) =>
      t0 === 0 && t1 === x.shape[1] && h0 === 0 && h1 === x.shape[2] ? x : slice(x, [0, t0, h0, 0], [batch, t1, h1, width])
    /** Of each group of heads, its stretches. */
    const groups: (() => Tensor)[][] = []
    for (let g0 = 0; g0 < kvHeads; ) {
      let g1 = g0 + 1
      while (g1 < kvHeads && JSON.stringify(assignment[g1]) === JSON.stringify(assignment[g0])) g1++
      const own = [g0, g1] as const
      const settings = { ...options, heads: (g1 - g0) * group, kvHeads: g1 - g0 }
      groups.push(assignment[g0].flatMap(({ from, to, kernel }) => {
        // Positions are counted along the keys; the last query stands at the last key.
        const first = Math.max(0, from - (keys - queries))
        const last = Math.min(queries, to - (keys - queries))
        if (first >= last) return []
        const rest = [0, causal ? keys - queries + last : keys] as const
        return [() => kernels[kernel](part(q, [first, last], own.map((g) => g * group) as [number, number]), part(k, rest, own), part(v, rest, own), settings)]
      }))
      g0 = g1
    }
    const done = branches(q.device, groups.flat())
    const results = groups.map((calls) => {
      const rows = done.splice(0, calls.length)
      return rows.length === 1 ? rows[0] : concat(rows, 1)
    })
    return results.length === 1 ? results[0] : concat(results, 2)
  }
}

/** One whole head through one kernel. */
export const wholeHead = (kernel: string): readonly Stretch[] => [{ from: 0, to: Infinity, kernel }]

/** What a unit may be: its cost, and by how much it changes the loss when it alone is changed. */
export interface Choice {
  kernel: string
  cost: number
  change: number
}

export interface FrontierPoint {
  /** The kernel of each unit. */
  kernels: string[]
  cost: number
  /** Foretold: the sum of the units' changes. */
  change: number
}

/** The choices on the lower convex hull, from the most expensive to the cheapest. */
function hull(choices: readonly Choice[]): Choice[] {
  const sorted = [...choices].sort((a, b) => a.cost - b.cost || a.change - b.change)
  const kept: Choice[] = []
  for (const choice of sorted) {
    if (kept.length && choice.change >= kept[kept.length - 1].change) continue
    const slope = (a: Choice, b: Choice) => (b.change - a.change) / (b.cost - a.cost)
    while (kept.length > 1 && slope(kept[kept.length - 2], kept[kept.length - 1]) >= slope(kept[kept.length - 1], choice)) kept.pop()
    kept.push(choice)
  }
  return kept.reverse()
}

/**
 * The convex frontier: from every unit at its most accurate to every unit at its cheapest, each step the change that costs
 * the least accuracy for what it saves. Costs fall and losses rise along it.
 */
export function frontier(units: readonly (readonly Choice[])[]): FrontierPoint[] {
  const hulls = units.map(hull)
  const at = units.map(() => 0)
  const point = (): FrontierPoint => {
    const chosen = hulls.map((choices, u) => choices[at[u]])
    const total = (f: (choice: Choice) => number) => chosen.reduce((sum, choice) => sum + f(choice), 0)
    return { kernels: chosen.map(({ kernel }) => kernel), cost: total((c) => c.cost), change: total((c) => c.change) }
  }
  const steps = hulls.flatMap((choices, unit) =>
    choices.slice(1).map((next, i) => ({ unit, price: (next.change - choices[i].change) / (choices[i].cost - next.cost) })),
  )
  const points = [point()]
  for (const { unit } of steps.sort((a, b) => a.price - b.price)) {
    at[unit]++
    points.push(point())
  }
  return points
}

/** The cheapest point whose change is at most `limit`. @throws ERR_OPTION when there is none */
export function choose(points: readonly FrontierPoint[], limit: number): FrontierPoint {
  const allowed = points.filter(({ change }) => change <= limit).sort((a, b) => a.cost - b.cost)
  if (allowed.length) return allowed[0]
  const least = Math.min(...points.map(({ change }) => change))
  throw new LeanformerError('ERR_OPTION', `multi_kernel: no assignment changes the loss by at most ${limit}`, `the least is ${least}`)
}

const kMostPartial = 200_000

/**
 * The cheapest of all assignments whose changes add up to at most `limit`, which may lie off the convex frontier: unit by unit,
 * keeping what no other partial assignment beats in both. For a few dozen units; choose() serves any number.
 * @throws ERR_OPTION when there is none, or too many stay in question
 */
export function chooseExactly(units: readonly (readonly Choice[])[], limit: number): FrontierPoint {
  interface Partial { cost: number; change: number; kernel: string; before: Partial | null }
  const least = units.map((choices) => Math.min(...choices.map(({ change }) => change)))
  let rest = least.reduce((total, change) => total + change, 0)
  if (!(rest <= limit)) throw new LeanformerError('ERR_OPTION', `multi_kernel: no assignment changes the loss by at most ${limit}`, `the least is ${rest}`)
  let kept: Partial[] = [{ cost: 0, change: 0, kernel: '', before: null }]
  for (const [u, choices] of units.entries()) {
    rest = least.slice(u + 1).reduce((total, change) => total + change, 0)
    const next = kept
      .flatMap((before) => choices.map(({ kernel, cost, change }): Partial => ({ cost: before.cost + cost, change: before.change + change, kernel, before })))
      .sort((a, b) => a.cost - b.cost || a.change - b.change)
    kept = []
    // Sums in another order differ in their last digits: no way to the least sum may be lost by them.
    const most = limit + 1e-12 * Math.max(1, Math.abs(limit))
    for (const point of next) {
      if (point.change + rest <= most && (kept.length === 0 || point.change < kept[kept.length - 1].change)) kept.push(point)
    }
    if (kept.length > kMostPartial) {
      throw new LeanformerError('ERR_OPTION', `multi_kernel: ${kept.length} partial assignments of ${u + 1} units stay in question`, 'take choose(frontier(units), limit)')
    }
  }
  const [best] = kept
  const kernels: string[] = []
  for (let at: Partial | null = best; at?.before; at = at.before) kernels.unshift(at.kernel)
  return { kernels, cost: best.cost, change: best.change }
}
