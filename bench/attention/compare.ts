// Dense, block-sparse and CSR attention over lengths and densities: measured, and as lib/attention/crossover.ts forecasts.
// Two kinds of pattern: a window, whose pairs fill blocks, and keys drawn at random, which leave a few pairs in every block.
import { attentionSeconds, attentionWays, patternPairs, type AttentionWay } from '../../lib/attention/crossover'
import { localCausal } from '../../lib/attention/patterns'
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import type { DType } from '../../lib/native/dtype'
import { attention } from '../../lib/ops/attention'
import { blockLayout, blockSparseAttention, type Pattern } from '../../lib/ops/block_sparse_attention'
import { csrAttention, csrLayout } from '../../lib/ops/csr_attention'
import { randn } from '../../lib/ops/random'
import type { Device } from '../../lib/tensor/device'
import { hostRandom } from '../../lib/tensor/random'
import { keep } from '../../lib/tensor/scope'
import type { Tensor } from '../../lib/tensor/tensor'
import { deviceSeconds } from '../gpu/timing'

export interface Point {
  way: AttentionWay
  dtype: DType
  batch: number
  heads: number
  length: number
  width: number
  family: 'window' | 'random'
  /** Listed pairs, of all that a causal model has. */
  density: number
  /** Of one head, as this way counts them. */
  pairs: number
  forward: number
  backward: number
}

export interface Grid {
  lengths: readonly number[]
  widths: readonly number[]
  densities: readonly number[]
  dtypes: readonly DType[]
  heads: number
  /** Tokens of a batch: batch = tokens / length, at least 1. */
  tokens: number
  /** Random patterns have masks of every block: none beyond this length. */
  longestRandom: number
  /** Points with more pairs of a head are left out. */
  mostPairs: number
  repeats: number
}

const block = 64

/** Each query sees itself and earlier keys drawn at random, every one with this chance. */
function scattered(density: number, length: number): Pattern {
  const seen = new Uint8Array(length * length)
  const { uniform } = hostRandom({ seed: 7, offset: length })
  for (let i = 0; i < length; ++i) {
    for (let j = 0; j < i; ++j) seen[i * length + j] = uniform() < density ? 1 : 0
    seen[i * length + i] = 1
  }
  return {
    heads: 1,
    keyBlocks: (row) => Array.from({ length: row + 1 }, (_, column) => column),
    sees: (i, j) => seen[i * length + j] === 1,
  }
}

/** The window with this share of the pairs of a causal model. */
function window(density: number, length: number): Pattern {
  const pairs = (w: number) => (w * (w + 1)) / 2 + (length - w) * w
  let w = 1
  while (w < length && pairs(w) < (density * length * (length + 1)) / 2) ++w
  return localCausal(w)
}

/** What is measured on a kind of device. */
export function attentionGrid(device: Device, dtypes: readonly DType[], quick: boolean): Grid {
  const common = { dtypes, mostPairs: 1 << 23 }
  if (quick) return { ...common, lengths: [128], widths: [16], densities: [0.05, 0.2], heads: 2, tokens: 128, longestRandom: 128, repeats: 1 }
  if (!device.name.startsWith('cuda')) {
    return { ...common, lengths: [256, 512, 1024], widths: [64, 32, 128], densities: [0.01, 0.05, 0.2, 0.5], heads: 2, tokens: 1024, longestRandom: 1024, repeats: 7 }
  }
  return { ...common, lengths: [1024, 4096, 16384], widths: [64, 128], densities: [0.002, 0.02, 0.2], heads: 12, tokens: 16384, longestRandom: 4096, repeats: 5 }
}

/** Times every way at every point of the grid; `each` is told of a point as soon as it is measured. */
export async function measureAttention(device: Device, grid: Grid, each: (point: Point) => void): Promise<Point[]> {
  const points: Point[] = []
  for (const dtype of grid.dtypes) {
    for (const length of grid.lengths) {
      for (const width of grid.widths) {
        // One width everywhere; the others at one length, to tell the cost of a pair from that of its width.
        if (width !== grid.widths[0] && length !== grid.lengths[0]) continue
        const { heads } = grid
        const batch = Math.max(1, Math.floor(grid.tokens / length))
        const [q, k, v, seed] = [0, 1, 2, 3].map(() => keep(randn([batch, length, heads, width], { device, dtype })))
        for (const x of [q, k, v]) x.requiresGrad = true
        const fresh = () => [q, k, v].forEach((x) => { x.grad?.dispose(); x.grad = null })
        const time = async (way: AttentionWay, family: Point['family'], density: number, pairs: number, run: () => Tensor) => {
          const op = { dense: 'attention', block_sparse: 'block_sparse_attention', csr: 'csr_attention' }[way]
          const timing = { repeats: grid.repeats, least: device.name === 'cpu' }
          const forward = await deviceSeconds(device, () => void noGrad(run), { ...timing, only: [op] })
          const back = await deviceSeconds(device, () => { fresh(); backward(run(), seed) }, { ...timing, only: [`${op}_backward`] })
          fresh()
          const point = { way, dtype, batch, heads, length, width, family, density, pairs, forward, backward: back }
          points.push(point)
          each(point)
        }
        await time('dense', 'window', 1, (length * (length + 1)) / 2, () => attention(q, k, v, { heads, causal: true }))
        for (const family of ['window', 'random'] as const) {
          if (family === 'random' && length > grid.longestRandom) continue
          for (const density of grid.densities) {
            if ((density * length * (length + 1)) / 2 > grid.mostPairs) continue
            const pattern = (family === 'window' ? window : scattered)(density, length)
            const sizes = { queries: length, keys: length, block }
            const csr = csrLayout(pattern, sizes, block)
            // Random pairs touch every block: one density stands for all.
            const blocks = family === 'window' || density === grid.densities[0] ? blockLayout(pattern, sizes) : null
            const pairs = patternPairs(csr, blocks, true)
            const share = pairs.csr! / pairs.dense!
            await time('csr', family, share, pairs.csr!, () => csrAttention(q, k, v, csr, { heads }))
            if (blocks) {
              await time('block_sparse', family, share, pairs.block_sparse!, () => blockSparseAttention(q, k, v, blocks, { heads }))
            }
            csr.dispose()
            blocks?.dispose()
          }
        }
        for (const x of [q, k, v, seed]) x.dispose()
      }
    }
  }
  return points
}

export type Row = Record<string, string | number | null>

/** Seconds forwards and backwards as the rule has it. */
const forecast = (device: Device, { way, pairs, dtype, batch, heads, width }: Point) => attentionSeconds(way, pairs, { device, dtype, batch, heads, width })

/** One row a point: measured and forecast times in microseconds. */
export function timesTable(device: Device, points: readonly Point[]): Row[] {
  return points.map((point) => ({
    dtype: point.dtype, length: point.length, width: point.width, pattern: point.way === 'dense' ? 'causal' : point.family,
    density: point.density, attention: point.way,
    forward_us: 1e6 * point.forward, backward_us: 1e6 * point.backward,
    both_us: 1e6 * (point.forward + point.backward), rule_us: 1e6 * forecast(device, point),
  }))
}

/** The density at which `times` of density become longer than `limit`, between two of the measured ones; 0: at all, null: at none. */
function crossing(times: readonly [density: number, seconds: number][], limit: number): number | null {
  const sorted = [...times].sort((a, b) => a[0] - b[0])
  const over = sorted.findIndex(([, seconds]) => seconds > limit)
  if (over < 0) return null
  if (over === 0) return 0
  const [[d0, s0], [d1, s1]] = [sorted[over - 1], sorted[over]]
  return d0 * (d1 / d0) ** (Math.log(limit / s0) / Math.log(s1 / s0))
}

/** For each length, width and kind of pattern: up to which density CSR beats the others, measured and by the rule. */
export function crossoverTable(device: Device, points: readonly Point[]): Row[] {
  const rows: Row[] = []
  const both = (point: Point) => point.forward + point.backward
  for (const dense of points.filter(({ way }) => way === 'dense')) {
    const alike = points.filter(({ dtype, length, width }) => dtype === dense.dtype && length === dense.length && width === dense.width)
    for (const family of ['window', 'random'] as const) {
      const own = alike.filter((point) => point.family === family)
      const csr = own.filter(({ way }) => way === 'csr')
      const blocks = own.filter(({ way }) => way === 'block_sparse')
      if (!csr.length) continue
      const seconds = (time: (point: Point) => number, limits: (point: Point) => number) =>
        crossing(csr.map((point) => [point.density, time(point) / limits(point)]), 1)
      const blocksOf = (point: Point) => blocks.find(({ density }) => density === point.density) ?? blocks[0]
      rows.push({
        dtype: dense.dtype, length: dense.length, width: dense.width, pattern: family,
        csr_beats_dense_below: seconds(both, () => both(dense)),
        rule_dense: seconds((point) => forecast(device, point), () => forecast(device, dense)),
        csr_beats_blocks_below: seconds(both, (point) => both(blocksOf(point))),
        rule_blocks: seconds((point) => forecast(device, point), (point) => forecast(device, blocksOf(point))),
        blocks_beat_dense_below: family === 'window' ? crossing(blocks.map((point) => [point.density, both(point)]), both(dense)) : null,
      })
    }
  }
  return rows
}

/** How far the rule's times are off, by way: the median of |log2(rule / measured)|. */
export function misfit(device: Device, points: readonly Point[]): Row {
  return Object.fromEntries(
    attentionWays.map((way) => {
      const off = points.filter((point) => point.way === way).map((point) => Math.abs(Math.log2(forecast(device, point) / (point.forward + point.backward))))
      return [way, off.sort((a, b) => a - b)[off.length >> 1] ?? null]
    }),
  )
}
