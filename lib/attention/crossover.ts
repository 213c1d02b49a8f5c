// Which attention is right for a pattern: dense, block-sparse or over a CSR list. A model of the time of one call,
//   seconds = call + pairs (pair + width pairWidth),
// with pairs as each way counts them: all that are seen (dense), those of the listed blocks (block-sparse), the listed ones
// (CSR). The constants are in costs.gen.ts; `npm run bench -- attention --fit` measures them on a device and writes them.
import type { DType } from '../native/dtype'
import { blockLayout, type BlockLayout, type Pattern } from '../ops/block_sparse_attention'
import { csrLayout, type CsrLayout } from '../ops/csr_attention'
import type { Device } from '../tensor/device'
import { costs } from './costs.gen'

export const attentionWays = ['dense', 'block_sparse', 'csr'] as const
export type AttentionWay = (typeof attentionWays)[number]

/** Seconds. */
export interface CallCost {
  call: number
  pair: number
  pairWidth: number
}
export interface WayCosts {
  forward: CallCost
  backward: CallCost
}
export interface DeviceCosts {
  /** How the constants came to be: a benchmark on a device, or its data sheet. */
  source: string
  /** f16 counts as bf16, f64 as f32. */
  f32: Record<AttentionWay, WayCosts>
  bf16: Record<AttentionWay, WayCosts>
}

export interface AttentionProblem {
  device: Device
  dtype: DType
  batch: number
  heads: number
  /** Of a head. */
  width: number
  /** Pairs of one head, on average: for dense attention, in the listed blocks, in the list. null: that way is none. */
  pairs: Record<AttentionWay, number | null>
  /** With the gradient; default true. */
  backward?: boolean
}

export interface AttentionForecast {
  way: AttentionWay
  seconds: Record<AttentionWay, number>
  /** Where the constants are from. */
  source: string
  reason: string
}

const costsOf = (device: Device) => costs[device.name.startsWith('cuda') ? 'cuda' : 'cpu']

/** The seconds of one call over `pairs` pairs of each head. */
export function attentionSeconds(way: AttentionWay, pairs: number, { device, dtype, batch, heads, width, backward = true }: Omit<AttentionProblem, 'pairs'>): number {
  const format = dtype === 'bf16' || dtype === 'f16' ? 'bf16' : 'f32'
  const { forward, backward: back } = costsOf(device)[format][way]
  const seconds = (cost: CallCost) => cost.call + batch * heads * pairs * (cost.pair + width * cost.pairWidth)
  return seconds(forward) + (backward ? seconds(back) : 0)
}

const ms = (seconds: number) => (seconds === Infinity ? 'not possible' : `${(1e3 * seconds).toPrecision(3)} ms`)

/** The way with the least predicted time, the prediction of each, and why, in a sentence. */
export function chooseAttention(problem: AttentionProblem): AttentionForecast {
  const seconds = {} as Record<AttentionWay, number>
  for (const way of attentionWays) seconds[way] = problem.pairs[way] === null ? Infinity : attentionSeconds(way, problem.pairs[way], problem)
  const way = attentionWays.reduce((best, each) => (seconds[each] < seconds[best] ? each : best))
  const { source } = costsOf(problem.device)
  const { dense, block_sparse: blocks, csr } = problem.pairs
  const fill = blocks !== null && csr !== null && blocks > 0 ? `, whose blocks are ${((100 * csr) / blocks).toPrecision(3)} % full` : ''
  const share = dense && csr !== null ? ` for ${((100 * csr) / dense).toPrecision(3)} % of the pairs${fill}` : ''
  const times = attentionWays.map((each) => `${each} ${ms(seconds[each])}`).join(', ')
  return { way, seconds, source, reason: `${way} on ${problem.device.name}${share}: ${times} a call (${source})` }
}

/** Pairs of one head of a pattern in each way. */
export function patternPairs(layout: CsrLayout, blocks: BlockLayout | null, causal: boolean): Record<AttentionWay, number | null> {
  const { queries, keys } = layout.sizes
  const before = keys - queries
  return {
    dense: causal ? queries * before + (queries * (queries + 1)) / 2 : queries * keys,
    block_sparse: blocks ? (blocks.columns.length / blocks.patterns) * blocks.sizes.block ** 2 : null,
    csr: layout.columns.length / layout.patterns,
  }
}

/** Both layouts of a pattern and the forecast for them. */
export function forecastPattern(
  pattern: Pattern,
  sizes: { queries: number; keys: number; block: number },
  problem: Omit<AttentionProblem, 'pairs'> & { causal: boolean },
): AttentionForecast & { csr: CsrLayout; blocks: BlockLayout } {
  const csr = csrLayout(pattern, sizes, sizes.block)
  const blocks = blockLayout(pattern, sizes)
  return { csr, blocks, ...chooseAttention({ ...problem, pairs: patternPairs(csr, blocks, problem.causal) }) }
}
