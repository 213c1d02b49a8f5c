// Sparse execution: a trained model whose pruned matrices are kept and multiplied without their zeros (nn/sparse_weight.ts),
// each in the layout that is expected to be fastest, and only where that is faster than the dense product. Which it is was
// measured: `npm run bench -- sparse` prints from which density on.
// Masks of single weights pay late, and 2 of 4 not at all on a CPU, where a dense product has no zeros to look for.
import { noGrad } from '../autograd/tape'
import { linearTargets, partNames } from '../nn/linear_parts'
import type { Linear } from '../nn/linear'
import type { Module } from '../nn/module'
import { blockRows, SparseWeight, toBlocks, toTwoOfFour, type SparseLayout, type SparseParts } from '../nn/sparse_weight'
import { scope } from '../tensor/scope'

/** Densities of blocks below which a layout is faster than the dense product on a CPU with AVX-512, 512 tokens and more. */
export const crossovers: Readonly<Record<Exclude<SparseLayout, '2:4'>, number>> = { csr: 0.18, rows2: 0.2, rows4: 0.4 }

export interface SparseOptions {
  /** This layout, whatever it costs; default: the one expected to be fastest, if it beats the dense product. */
  layout?: SparseLayout
}

export interface SparseReport {
  /** By path: layout and share of the weights that are kept; dense ones have none. */
  layers: Record<string, { layout: SparseLayout; kept: number }>
  /** Multiplications a token in the hidden matrices, before and after. */
  multiplications: { before: number; after: number }
}

/** The layout with the least expected time, as a share of the dense product's; null when none is faster. */
function choose(w: Float32Array, shape: readonly [number, number]): { layout: SparseLayout; parts: SparseParts } | null {
  let best: { layout: SparseLayout; parts: SparseParts } | null = null
  let least = 1
  for (const layout of ['csr', 'rows2', 'rows4'] as const) {
    const parts = partsOf(w, shape, layout)
    if (!parts) continue
    const time = parts.values.length / w.length / crossovers[layout]
    if (time < least) [best, least] = [{ layout, parts }, time]
  }
  return best
}

function partsOf(w: Float32Array, shape: readonly [number, number], layout: SparseLayout): SparseParts | null {
  if (layout === '2:4') return toTwoOfFour(w, shape)
  return shape[0] % blockRows[layout] === 0 ? toBlocks(w, shape, blockRows[layout]) : null
}

/**
 * Puts the hidden matrices of a trained model in sparse form where that makes products faster; those that do not fit a given
 * layout stay dense. The model is for evaluation from then on: the matrices are not trained any more.
 */
export async function packSparse(model: Module<never, unknown>, { layout }: SparseOptions = {}): Promise<SparseReport> {
  const report: SparseReport = { layers: {}, multiplications: { before: 0, after: 0 } }
  const known: ReadonlySet<string> = new Set(partNames)
  const targets = linearTargets(model).filter(({ layer, parts }) => layer.plain && parts.every(({ name }) => known.has(name)))
  for (const { path, layer } of targets) {
    const shape = [...layer.shape] as [number, number]
    const w = await layer.weight.tensor.toFloat32()
    report.multiplications.before += w.length
    const parts = layout && partsOf(w, shape, layout)
    const found = layout ? parts && { layout, parts } : choose(w, shape)
    if (found) replace(layer, found.parts, shape, found.layout)
    const kept = found ? found.parts.values.length : w.length
    if (found) report.layers[path] = { layout: found.layout, kept: kept / w.length }
    report.multiplications.after += kept
  }
  return report
}

function replace(layer: Linear, parts: SparseParts, shape: readonly [number, number], layout: SparseLayout): void {
  const { device } = layer.weight.tensor
  scope(() => noGrad(() => layer.pack(new SparseWeight(parts, shape, layout, device))))
}
