// Which layers of a chain to keep and which to run again: plans, what a plan costs, and the best plan within a number of bytes.
// A plan is a list of pieces: a layer whose inner tensors are kept, or a stretch of layers of which only the input is kept
// and which, when its gradients are wanted, is run again by a plan of its own. The best one is found by dynamic programming
// over stretches, as in rotor (Beaumont et al., arXiv 1911.13214) and before it Revolve (Griewank and Walther 2000), but
// for all numbers of bytes at once: each stretch has its frontier of (peak bytes, FLOPs), so nothing is rounded.

/** A layer that is kept, or a stretch that is run again by this plan. */
export type Piece = 'keep' | Plan
export type Plan = readonly Piece[]

/** One layer's bytes and FLOPs. Peaks are above what is live when it begins, its input with it. */
export interface StageCosts {
  /** Bytes of its result. */
  output: number
  /** Without a tape. */
  runPeak: number
  runFlops: number
  /** With a tape. */
  keepPeak: number
  keepFlops: number
  /** Bytes that the tape holds afterwards, without input and result. */
  held: number
  /** Of its gradients; the gradient of its result is live when it begins. */
  backPeak: number
  /** Bytes that its gradients leave: those of its parameters, and that of its input in the place of its result's. */
  growth: number
}

export interface ChainCosts {
  stages: readonly StageCosts[]
  /** Between the last layer and its gradients: peak above what is live then, and what it leaves without the last result. */
  turn: { peak: number; growth: number }
}

/** Layers that a piece or a plan covers. */
export function layersOfPlan(plan: Piece): number {
  return plan === 'keep' ? 1 : plan.reduce((n, piece) => n + layersOfPlan(piece), 0)
}

/** `layers` cut into stretches of `length`, each of which is run again as a whole. */
export function everyPlan(layers: number, length: number): Plan {
  return Array.from({ length: Math.ceil(layers / length) }, (_, i) => Array<Piece>(Math.min(length, layers - i * length)).fill('keep'))
}

/** About sqrt(layers) stretches of about as many layers: Chen et al., arXiv 1604.06174. */
export function sqrtPlan(layers: number): Plan {
  const count = Math.max(1, Math.round(Math.sqrt(layers)))
  const end = (i: number) => Math.round((i * layers) / count)
  return Array.from({ length: count }, (_, i) => Array<Piece>(end(i + 1) - end(i)).fill('keep'))
}

/** Peak bytes above what is live when the chain begins, and FLOPs of all passes forward, in the order in which they happen. */
export function planCosts({ stages, turn }: ChainCosts, plan: Plan): { peak: number; flops: number } {
  let peak = 0
  let flops = 0
  const touch = (level: number) => (peak = Math.max(peak, level))
  // Bytes afterwards, over `level`, which has the input of layer `first` in it.
  const process = (first: number, pieces: Plan, level: number, turned: (level: number, last: number) => number): number => {
    const starts = pieces.map((_, i) => first + layersOfPlan(pieces.slice(0, i)))
    let end = first
    for (const piece of pieces) {
      const start = end
      for (; end < start + layersOfPlan(piece); ++end) {
        const stage = stages[end]
        touch(level + (piece === 'keep' ? stage.keepPeak : stage.runPeak))
        flops += piece === 'keep' ? stage.keepFlops : stage.runFlops
        level += stage.output + (piece === 'keep' ? stage.held : 0)
        if (end > start) level -= stages[end - 1].output
      }
    }
    level = turned(level, end - 1)
    for (const [i, piece] of [...pieces.entries()].reverse()) {
      const start = starts[i]
      if (piece === 'keep') {
        touch(level + stages[start].backPeak)
        level += stages[start].growth - stages[start].held
      } else level = process(start, piece, level, (inner, last) => inner - stages[last].output)
      if (start > first) level -= stages[start - 1].output
    }
    return level
  }
  process(0, plan, 0, (level, last) => {
    touch(level + turn.peak)
    return level + turn.growth - stages[last].output
  })
  return { peak, flops }
}

/** One way to process a stretch, of its frontier; planOf() spells it out. */
export interface Choice {
  /** Bytes above what is live when it begins. */
  peak: number
  /** Of all passes forward. */
  flops: number
  /** How its first piece is run again; null: its first layer is kept. */
  again: Choice | null
  /** How the layers after the first piece are processed; null: there are none. */
  rest: Choice | null
}

export function planOf(choice: Choice): Plan {
  const plan: Piece[] = []
  for (let at: Choice | null = choice; at; at = at.rest) plan.push(at.again ? planOf(at.again) : 'keep')
  return plan
}

/** Those that no other beats in both bytes and FLOPs: by rising peak and falling FLOPs. */
function best(choices: Choice[]): Choice[] {
  choices.sort((a, b) => a.peak - b.peak || a.flops - b.flops)
  let least = Infinity
  return choices.filter(({ flops }) => flops < least && ((least = flops), true))
}

/** Every useful pairing of two frontiers, each above its own level, by rising peak of the two together. */
function pair(first: readonly Choice[], firstLevel: number, second: readonly Choice[], secondLevel: number, add: (a: Choice, b: Choice, peak: number) => void): void {
  for (let i = 0, k = 0; i < first.length && k < second.length; ) {
    const [a, b] = [firstLevel + first[i].peak, secondLevel + second[k].peak]
    add(first[i], second[k], Math.max(a, b))
    if (i + 1 === first.length && k + 1 === second.length) return
    const nextA = i + 1 < first.length ? firstLevel + first[i + 1].peak : Infinity
    const nextB = k + 1 < second.length ? secondLevel + second[k + 1].peak : Infinity
    if (nextA <= nextB) ++i
    else ++k
  }
}

/**
 * All plans of a chain that are best for some number of bytes, by rising peak and falling FLOPs. The first is the least
 * that the chain can do with. Exact within plans of this kind: O(layers^3) times the length of the frontiers.
 */
export function frontier({ stages, turn }: ChainCosts): Choice[] {
  const n = stages.length
  const growth = [0]
  const flops = [0]
  for (const [i, stage] of stages.entries()) {
    growth.push(growth[i] + stage.growth)
    flops.push(flops[i] + stage.runFlops)
  }
  // Peak of running layers [from, to) without a tape.
  const runPeaks = stages.map((_, from) => {
    const peaks: number[] = []
    for (let j = from, most = 0; j < n; ++j) {
      most = Math.max(most, (j === from ? 0 : stages[j - 1].output) + stages[j].runPeak)
      peaks[j + 1] = most
    }
    return peaks
  })
  const keep = (s: number, rest: Choice | null, restPeak: number, later: number): Choice => {
    const { keepPeak, keepFlops, held, output, backPeak } = stages[s]
    const peak = Math.max(keepPeak, held + output + restPeak, held + later + backPeak)
    return { peak, flops: keepFlops + (rest?.flops ?? 0), again: null, rest }
  }
  const again = (s: number, k: number, first: Choice, rest: Choice | null, peak: number): Choice => ({
    peak: Math.max(runPeaks[s][k], peak),
    flops: flops[k] - flops[s] + first.flops + (rest?.flops ?? 0),
    again: first,
    rest,
  })

  // inner[s][t]: layers [s, t), when their gradients are wanted at once.
  const inner: Choice[][][] = stages.map(() => [])
  for (let length = 1; length <= n; ++length) {
    for (let s = 0; s + length <= n; ++s) {
      const t = s + length
      const found: Choice[] = length === 1 ? [keep(s, null, 0, 0)] : inner[s + 1][t].map((rest) => keep(s, rest, rest.peak, growth[t] - growth[s + 1]))
      for (let k = s + 1; k < t; ++k) {
        pair(inner[s][k], growth[t] - growth[k], inner[k][t], stages[k - 1].output, (a, b, peak) => found.push(again(s, k, a, b, peak)))
      }
      inner[s][t] = best(found)
    }
  }
  // outer[s]: layers [s, n), with the turn between them and their gradients.
  const outer: Choice[][] = []
  for (let s = n - 1; s >= 0; --s) {
    const later = (k: number) => turn.growth + growth[n] - growth[k]
    const found: Choice[] = s === n - 1 ? [keep(s, null, turn.peak, later(n))] : outer[s + 1].map((rest) => keep(s, rest, rest.peak, later(s + 1)))
    for (let k = s + 1; k < n; ++k) {
      pair(inner[s][k], later(k), outer[k], stages[k - 1].output, (a, b, peak) => found.push(again(s, k, a, b, peak)))
    }
    const turned = stages[n - 1].output + turn.peak
    for (const whole of inner[s][n]) found.push(again(s, n, whole, null, Math.max(turned, later(n) + whole.peak)))
    outer[s] = best(found)
  }
  return outer[0] ?? []
}

/** The choice with the fewest FLOPs among those whose peak is at most `bytes`; null: there is none. */
export function chooseWithin(choices: readonly Choice[], bytes: number): Choice | null {
  return choices.findLast(({ peak }) => peak <= bytes) ?? null
}
