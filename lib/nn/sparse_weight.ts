// A matrix of which only what is not zero is kept: 1 x 1 (CSR), in blocks of 2 or 4 rows, or two of every four neighbours
// (native/ops/sparse_linear.cpp). For evaluation: without a tape the product skips the zeros; where a gradient is wanted the
// matrix is unfolded. FLOPs count what is kept.
import { noGrad, recording } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import type { DType } from '../native/dtype'
import { cast } from '../ops/cast'
import { add } from '../ops/elementwise'
import { transpose } from '../ops/permute'
import { sparseLinear, type BlockSparse, type TwoOfFour } from '../ops/sparse_linear'
import { scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import { Constant, PackedWeight } from './packed_weight'

/** How a sparse matrix is laid out: rows x 1 blocks, or 2 of 4. */
export type SparseLayout = 'csr' | 'rows2' | 'rows4' | '2:4'

/** Rows of a block. */
export const blockRows = { csr: 1, rows2: 2, rows4: 4 } as const

/** The parts of a layout, on the host. */
export interface SparseParts {
  values: Float32Array
  places: Int32Array | Uint8Array
  /** null in 2:4. */
  offsets: Int32Array | null
}

/** Blocks of `rows` x 1 that hold anything but zeros. */
export function toBlocks(w: Float32Array, [out, inner]: readonly [number, number], rows: 1 | 2 | 4): SparseParts {
  if (out % rows !== 0) throw new LeanformerError('ERR_SHAPE', `sparse weight: ${out} rows are not a multiple of ${rows}`, 'choose another layout')
  const values: number[] = []
  const places: number[] = []
  const offsets = new Int32Array(out / rows + 1)
  for (let block = 0; block < out / rows; ++block) {
    for (let c = 0; c < inner; ++c) {
      let any = false
      for (let r = 0; r < rows; ++r) any ||= w[(block * rows + r) * inner + c] !== 0
      if (!any) continue
      places.push(c)
      for (let r = 0; r < rows; ++r) values.push(w[(block * rows + r) * inner + c])
    }
    offsets[block + 1] = places.length
  }
  return { values: Float32Array.from(values), places: Int32Array.from(places), offsets }
}

/** Two of every four neighbours; null when a group holds more. */
export function toTwoOfFour(w: Float32Array, [out, inner]: readonly [number, number]): SparseParts | null {
  if (inner % 4 !== 0) return null
  const values = new Float32Array((out * inner) / 2)
  const places = new Uint8Array((out * inner) / 4)
  for (let g = 0; g < places.length; ++g) {
    const kept = [0, 1, 2, 3].filter((i) => w[4 * g + i] !== 0)
    if (kept.length > 2) return null
    const free = [0, 1, 2, 3].filter((i) => !kept.includes(i))
    const [first, second] = [...kept, ...free].slice(0, 2).sort((a, b) => a - b)
    places[g] = first | (second << 2)
    values[2 * g] = w[4 * g + first]
    values[2 * g + 1] = w[4 * g + second]
  }
  return { values, places, offsets: null }
}

export class SparseWeight extends PackedWeight {
  /** f32, flat. */
  values: Constant
  /** i32 of blocks; u8 of pairs. */
  places: Constant
  /** i32; null in 2:4. */
  offsets: Constant | null
  readonly shape: readonly [number, number]
  readonly layout: SparseLayout

  constructor(parts: SparseParts, shape: readonly [number, number], layout: SparseLayout, device: Tensor['device']) {
    super()
    const { values, places, offsets } = parts
    this.shape = shape
    this.layout = layout
    this.values = new Constant(tensor(values, [values.length], { device }))
    this.places = new Constant(tensor(places as Int32Array, [places.length], { device, dtype: offsets ? 'i32' : 'u8' }))
    this.offsets = offsets && new Constant(tensor(offsets, [offsets.length], { device }))
  }

  /** Weights that are kept, zeros inside of blocks included. */
  get kept(): number {
    return this.values.tensor.size
  }

  private get parts(): BlockSparse | TwoOfFour {
    const [out] = this.shape
    const [values, places] = [this.values.tensor, this.places.tensor]
    if (!this.offsets || this.layout === '2:4') return { values, places, out }
    return { values, places, offsets: this.offsets.tensor, out, rows: blockRows[this.layout], columns: 1 }
  }

  /** The matrix with its zeros, by the product with the unit matrix. */
  override forward(dtype: DType): Tensor {
    const [, inner] = this.shape
    const unit = new Float32Array(inner * inner)
    for (let i = 0; i < inner; ++i) unit[i * inner + i] = 1
    return noGrad(() => cast(transpose(sparseLinear(tensor(unit, [inner, inner], { device: this.values.tensor.device }), this.parts)), dtype))
  }

  override product(x: Tensor, bias?: Tensor | null, residual?: Tensor | null): Tensor {
    if (recording([x, bias, residual])) return super.product(x, bias, residual)
    return scope(() => {
      const y = sparseLinear(x, this.parts, bias)
      return residual ? add(y, residual) : y
    })
  }
}
