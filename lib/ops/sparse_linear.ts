// y = x W^T (+ bias) with a weight that is kept without its zeros: as CSR, in small blocks, or two of every four.
import { run1, type Tensor } from '../tensor/tensor'

/** W [out, in] as blocks of rows x columns: those that are not zero, block row after block row. 1 x 1 is CSR. */
export interface BlockSparse {
  /** f32: [blocks, columns, rows], flat. */
  values: Tensor
  /** i32 [blocks]: the block column of each. */
  places: Tensor
  /** i32 [out / rows + 1]: where each block row begins. */
  offsets: Tensor
  out: number
  rows: 1 | 2 | 4
  columns: number
}

/** W [out, in] of which two of every four neighbours along a row are kept. */
export interface TwoOfFour {
  /** f32 [out, in / 2], flat. */
  values: Tensor
  /** u8 [out, in / 4]: position of the first kept in bits 0 and 1, of the second in bits 2 and 3. */
  places: Tensor
  offsets?: null
  out: number
}

/**
 * x [..., in] (f32, f16, bf16) -> [..., out], sums in f32. For trained models: no gradient.
 * @throws ERR_SHAPE, ERR_DTYPE; ERR_KERNEL when the places are outside of W
 */
export function sparseLinear(x: Tensor, weight: BlockSparse | TwoOfFour, bias?: Tensor | null): Tensor {
  const { rows, columns } = weight.offsets ? weight : { rows: 1, columns: 1 }
  return run1('sparse_linear', [x, weight.values, weight.places, weight.offsets, bias], { out: weight.out, rows, columns })
}
