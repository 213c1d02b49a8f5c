// LoRA: y = x W^T + b + s dropout(x) A^T B^T with A [r, in] and B [out, r], B = 0 at first, s = alpha / r (rsLoRA: alpha /
// sqrt(r)). DoRA: the rows of W + s B A are brought to a trainable length m, y = x W'^T + b with
//   W' = m (W + s B A) / |W + s B A|, the lengths taken as constants in the gradient.
// A layer of ours may hold several matrices; each has its own A, B and m, and all are computed in two products.
// Source: Hu et al., arXiv 2106.09685; Kalajdzievski, arXiv 2312.03732; Liu et al., arXiv 2402.09353.
import { noGrad } from '../autograd/tape'
import { kaimingUniform } from '../init/kaiming'
import { LeanformerError } from '../native/errors'
import { cast } from '../ops/cast'
import { concat, pad } from '../ops/concat'
import { ones, zeros } from '../ops/creation'
import { add, div, mul, scale, sqrt, square, sub } from '../ops/elementwise'
import { linear } from '../ops/linear'
import { matmul } from '../ops/matmul'
import { sum } from '../ops/reductions'
import { reshape } from '../ops/reshape'
import { slice } from '../ops/slice'
import { keep, scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { Dropout } from './dropout'
import type { Linear } from './linear'
import type { LinearPart } from './linear_parts'
import { Module, type ModuleOptions } from './module'
import { Parameter } from './parameter'

export interface LowRankOptions extends ModuleOptions {
  rank: number
  /** Default: rank. */
  alpha?: number
  dropout?: number
  /** Scale alpha / sqrt(rank) in place of alpha / rank. */
  rankStabilised?: boolean
  /** DoRA. */
  magnitudes?: boolean
}

/** A, B and, in DoRA, m of one matrix. */
export class LowRankPart extends Module<[]> {
  a: Parameter
  b: Parameter
  magnitude: Parameter | null = null
  readonly rows: LinearPart
  readonly options: LowRankOptions
  readonly scale: number

  constructor(rows: LinearPart, inFeatures: number, options: LowRankOptions) {
    super()
    const { rank, alpha = rank, rankStabilised } = options
    if (!Number.isInteger(rank) || rank < 1) throw new LeanformerError('ERR_ARGUMENT', `LoRA: rank must be a whole number above 0, got ${rank}`)
    this.rows = rows
    this.options = options
    this.scale = alpha / (rankStabilised ? Math.sqrt(rank) : rank)
    this.a = new Parameter(kaimingUniform(1 / Math.sqrt(3))([rank, inFeatures], options))
    this.b = new Parameter(zeros([rows.to - rows.from, rank], options))
  }

  /** s B A, f32. */
  forward(): Tensor {
    return scale(matmul(this.b.tensor, this.a.tensor), this.scale)
  }
}

export class LowRank extends Module<[x: Tensor, residual: Tensor | null, layer: Linear]> {
  parts: LowRankPart[] = []
  /** The products are in the layer's weight at present, and the adapter stands aside. */
  merged = false
  private readonly dropout: Dropout | null
  /** Lengths of the rows when merged, for the way back. */
  private mergedFactors: Tensor | null = null

  constructor(
    layer: Linear,
    rows: readonly LinearPart[],
    readonly options: LowRankOptions,
    own: (part: LinearPart) => Partial<LowRankOptions> = () => ({}),
  ) {
    super()
    for (const part of rows) this.parts.push(new LowRankPart(part, layer.shape[1], { ...options, ...own(part) }))
    this.dropout = options.dropout ? new Dropout(options.dropout) : null
    if (options.magnitudes) this.setMagnitudes(layer)
  }

  forward(x: Tensor, residual: Tensor | null, layer: Linear): Tensor {
    if (this.merged || this.parts.length === 0) return layer.product(x, residual)
    const { magnitudes } = this.options
    const base = magnitudes ? layer.product(x, null, false) : layer.product(x, residual)
    const narrow = linear(this.dropout ? this.dropout.call(x) : x, this.joined(this.parts.map(({ a }) => a.value), 0))
    const y = linear(narrow, this.wide(layer.shape[0]), null, base)
    if (!magnitudes) return y
    let out = mul(y, cast(this.factors(layer), y.dtype))
    if (layer.bias) out = add(out, cast(layer.bias.value, y.dtype))
    return residual ? add(out, residual) : out
  }

  /** Writes the adapter into the layer's weight. In f32 unmerge() brings it back but for rounding. */
  merge(layer: Linear): void {
    if (this.merged) return
    scope(() =>
      noGrad(() => {
        const changed = add(layer.packed ? layer.packed.call('f32') : layer.weight.tensor, this.delta(layer))
        const factors = this.options.magnitudes ? this.factors(layer) : null
        if (factors) this.mergedFactors = keep(factors)
        const value = factors ? mul(changed, reshape(factors, [factors.size, 1])) : changed
        if (layer.packed) {
          layer.packed.dispose()
          layer.packed = null
          layer.weight = new Parameter(value)
          layer.weight.trainable = false
        } else layer.weight.set(value)
      }),
    )
    this.merged = true
  }

  /** Takes the adapter out of the weight again. */
  unmerge(layer: Linear): void {
    if (!this.merged) return
    scope(() =>
      noGrad(() => {
        const factors = this.mergedFactors
        const plain = factors ? div(layer.weight.tensor, reshape(factors, [factors.size, 1])) : layer.weight.tensor
        layer.weight.set(sub(plain, this.delta(layer)))
      }),
    )
    this.mergedFactors?.dispose()
    this.mergedFactors = null
    this.merged = false
  }

  override dispose(): void {
    super.dispose()
    this.mergedFactors?.dispose()
  }

  private joined(parts: Tensor[], axis: number): Tensor {
    return parts.length === 1 ? parts[0] : concat(parts, axis)
  }

  /** s B of all parts as one matrix [out, all ranks]: each in its own rows and columns. */
  private wide(outFeatures: number): Tensor {
    const columns = this.parts.map((part) => {
      const { from, to } = part.rows
      const b = part.scale === 1 ? part.b.value : scale(part.b.value, part.scale)
      return to - from === outFeatures ? b : pad(b, [[from, outFeatures - to], [0, 0]])
    })
    return this.joined(columns, 1)
  }

  /** The change of the whole weight, f32 [out, in]. */
  private delta(layer: Linear): Tensor {
    const [rows] = layer.shape
    return this.parts.map((part) => pad(part.call(), [[part.rows.from, rows - part.rows.to], [0, 0]])).reduce((a, b) => add(a, b))
  }

  /** m / |W + s B A| of each row, 1 where no part is, [out]. The gradient sees the lengths as constants. */
  private factors(layer: Linear): Tensor {
    const lengths = scope(() => noGrad(() => rowLengths(add(dense(layer), this.delta(layer)))))
    const pieces: Tensor[] = []
    let at = 0
    const gap = (to: number) => {
      if (to > at) pieces.push(ones([to - at], { device: lengths.device, dtype: lengths.dtype }))
      at = to
    }
    for (const { rows, magnitude } of this.parts) {
      gap(rows.from)
      pieces.push(div(magnitude!.value, slice(lengths, [rows.from], [rows.to])))
      at = rows.to
    }
    gap(layer.shape[0])
    return this.joined(pieces, 0)
  }

  private setMagnitudes(layer: Linear): void {
    const lengths = scope(() => noGrad(() => rowLengths(dense(layer))))
    for (const part of this.parts) {
      const { from, to } = part.rows
      part.magnitude = new Parameter(scope(() => noGrad(() => slice(lengths, [from], [to]))))
    }
    lengths.dispose()
  }
}

const dense = (layer: Linear): Tensor => (layer.packed ? layer.packed.call('f32') : layer.weight.tensor)

function rowLengths(weight: Tensor): Tensor {
  return sqrt(sum(square(weight), [1]))
}
