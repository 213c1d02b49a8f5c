// GPTQ: rounding after training, one column of a matrix after another, each error passed on to the columns still to come so that
// the outputs on given inputs change least. With H = 2/n sum x x^T (+ 1 % of its mean diagonal) and U the upper Cholesky factor of
// H^-1, column i becomes q_i s, e = (w_i - q_i s) / U_ii, and w_j -= e U_ij for j > i. Scales are those of plain rounding,
// s = max |w| / (2^(bits-1) - 1), by row or by group of columns, of what the group has become when its turn comes. Columns may
// be taken in the order of falling H_ii; scales are then those of the matrix as it was. Inputs that are always 0 get zeros.
// Computed in f64 on the host; the moments of all layers are those of the model before any is rounded. Source: Frantar et al., arXiv 2210.17323.
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import { IntWeight } from '../nn/int_weight'
import type { Linear } from '../nn/linear'
import { Module } from '../nn/module'
import { accumulate } from '../ops/accumulate'
import { cast } from '../ops/cast'
import { matmul } from '../ops/matmul'
import { rowsOf } from '../ops/reshape'
import { keep, scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import { hiddenMatrices } from './quantise'

// Globals are slow to reach from within tests.
const { abs, floor, max, sqrt } = Math

export interface GptqOptions {
  /** 2 to 8. */
  bits: number
  /** Columns that share a scale; divides their number. 0 (default): a whole row. */
  group?: number
  /** Columns with large inputs first. Default false. */
  activationOrder?: boolean
  /** Added to the diagonal of H, as a share of its mean. Default 0.01. */
  damping?: number
}

function evenly(x: number): number {
  const down = floor(x)
  const rest = x - down
  return rest > 0.5 || (rest === 0.5 && down % 2 !== 0) ? down + 1 : down
}

/** L of a = L L^T, both [n, n] row by row. @throws ERR_ARGUMENT when a is not positive definite */
function cholesky(a: Float64Array, n: number): Float64Array {
  const l = new Float64Array(n * n)
  for (let i = 0; i < n; ++i) {
    for (let j = 0; j <= i; ++j) {
      let sum = a[i * n + j]
      for (let k = 0; k < j; ++k) sum -= l[i * n + k] * l[j * n + k]
      if (i !== j) l[i * n + j] = sum / l[j * n + j]
      else if (sum > 0) l[i * n + i] = sqrt(sum)
      else throw new LeanformerError('ERR_ARGUMENT', `gptq: the moments of the inputs are not positive definite at column ${i}`, 'calibrate on more tokens, or raise damping')
    }
  }
  return l
}

/** U, upper, of a^-1 = U^T U. */
function inverseFactor(a: Float64Array, n: number): Float64Array {
  const l = cholesky(a, n)
  // Columns of L^-1 as rows, so that a^-1 = R R^T by rows.
  const r = new Float64Array(n * n)
  for (let c = 0; c < n; ++c) {
    for (let i = c; i < n; ++i) {
      let sum = i === c ? 1 : 0
      for (let k = c; k < i; ++k) sum -= l[i * n + k] * r[c * n + k]
      r[c * n + i] = sum / l[i * n + i]
    }
  }
  const inverse = new Float64Array(n * n)
  for (let i = 0; i < n; ++i) {
    for (let j = 0; j <= i; ++j) {
      let sum = 0
      for (let k = i; k < n; ++k) sum += r[i * n + k] * r[j * n + k]
      inverse[i * n + j] = sum
    }
  }
  const lower = cholesky(inverse, n)
  const upper = new Float64Array(n * n)
  for (let i = 0; i < n; ++i) for (let j = 0; j <= i; ++j) upper[j * n + i] = lower[i * n + j]
  return upper
}

/**
 * Codes [rows, columns] and scales [rows, groups] of a matrix. `moments` [columns, columns] is the sum of x x^T over `count`
 * inputs. @throws ERR_ARGUMENT
 */
export function gptq(
  weight: ArrayLike<number>,
  [rows, columns]: readonly [number, number],
  { moments, count }: { moments: ArrayLike<number>; count: number },
  { bits, group = 0, activationOrder = false, damping = 0.01 }: GptqOptions,
): { codes: Int8Array; scales: Float32Array } {
  const each = group || columns
  if (!Number.isInteger(bits) || bits < 2 || bits > 8) throw new LeanformerError('ERR_ARGUMENT', `gptq: bits is ${bits}`, 'give a whole number from 2 to 8')
  if (columns % each !== 0) throw new LeanformerError('ERR_ARGUMENT', `gptq: groups of ${each} do not divide ${columns} columns`)
  const top = 2 ** (bits - 1) - 1
  const groups = columns / each
  const dead = Array.from({ length: columns }, (_, i) => moments[i * columns + i] === 0)
  const diagonal = Array.from({ length: columns }, (_, i) => (dead[i] ? 1 : (2 / count) * moments[i * columns + i]))
  const order = Array.from({ length: columns }, (_, i) => i)
  if (activationOrder) order.sort((a, b) => diagonal[b] - diagonal[a] || a - b)
  const extra = (damping * diagonal.reduce((sum, value) => sum + value, 0)) / columns
  const h = new Float64Array(columns * columns)
  for (const [i, a] of order.entries()) {
    for (const [j, b] of order.entries()) h[i * columns + j] = a === b ? diagonal[a] + extra : (2 / count) * moments[a * columns + b]
  }
  const upper = inverseFactor(h, columns)
  const codes = new Int8Array(rows * columns)
  const scales = new Float32Array(rows * groups)
  const w = new Float64Array(columns)
  for (let row = 0; row < rows; ++row) {
    for (const [i, column] of order.entries()) w[i] = dead[column] ? 0 : weight[row * columns + column]
    const scaleOf = (of: number, from: (column: number) => number) => {
      let largest = 1e-30
      for (let c = of * each; c < (of + 1) * each; ++c) largest = max(largest, abs(from(c)))
      scales[row * groups + of] = largest / top
    }
    if (activationOrder) for (let g = 0; g < groups; ++g) scaleOf(g, (column) => (dead[column] ? 0 : weight[row * columns + column]))
    for (const [i, column] of order.entries()) {
      const own = floor(column / each)
      if (!activationOrder && column % each === 0) scaleOf(own, (c) => w[c])
      const step = scales[row * groups + own]
      const code = max(-top, Math.min(top, evenly(w[i] / step)))
      codes[row * columns + column] = code
      const error = (w[i] - code * step) / upper[i * columns + i]
      for (let j = i + 1; j < columns; ++j) w[j] -= error * upper[i * columns + j]
    }
  }
  return { codes, scales }
}

/** Sums x x^T of what a layer is given. */
class Moments extends Module<[x: Tensor, residual: Tensor | null, layer: Linear]> {
  total: Tensor | null = null
  count = 0

  forward(x: Tensor, residual: Tensor | null, layer: Linear): Tensor {
    const rows = cast(rowsOf(x), 'f32')
    const own = matmul(rows, rows, { transposeA: true })
    if (this.total) accumulate(this.total, own)
    else this.total = keep(own)
    this.count += rows.shape[0]
    return layer.product(x, residual)
  }

  override dispose(): void {
    this.total?.dispose()
  }
}

/** As quantise() does, by GPTQ. `calibrate` runs the model on representative inputs. Returns bytes before and after. */
export async function quantiseGptq(
  model: Module<never, unknown>,
  { calibrate, ...options }: GptqOptions & { bits: 8 | 4; calibrate: () => void },
): Promise<{ before: number; after: number }> {
  const watched = hiddenMatrices(model).map((layer) => {
    const own = layer.adapter
    const watch = new Moments()
    layer.adapter = watch
    return { layer, own, watch }
  })
  noGrad(() => scope(calibrate))
  for (const { layer, own } of watched) layer.adapter = own
  const bytes = { before: 0, after: 0 }
  for (const { layer, watch } of watched) {
    if (!watch.total) throw new LeanformerError('ERR_ARGUMENT', 'quantiseGptq: calibrate did not run every layer')
    const [rows, columns] = layer.shape
    const found = gptq(await layer.weight.tensor.toFloat64(), [rows, columns], { moments: await watch.total.toFloat64(), count: watch.count }, options)
    const { device } = layer.weight.tensor
    scope(() => {
      const [codes, scales] = [tensor(found.codes, [rows, columns], { dtype: 'i8', device }), tensor(found.scales, null, { device })]
      bytes.before += 4 * layer.weight.tensor.size
      layer.pack(new IntWeight(codes, { bits: options.bits, group: options.group, scales }))
      bytes.after += layer.packed!.bytes
    })
    watch.dispose()
  }
  return bytes
}
