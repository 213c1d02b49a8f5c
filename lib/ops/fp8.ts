// The 8-bit floating formats E4M3 (up to 448) and E5M2 (up to 57344) as codes of u8, and back.
// Source: Micikevicius et al., arXiv 2209.05433.
import type { DType } from '../native/dtype'
import { run1, type Tensor } from '../tensor/tensor'

export type Fp8Format = 'e4m3' | 'e5m2'

/** The largest number of each format. */
export const fp8Largest: Readonly<Record<Fp8Format, number>> = { e4m3: 448, e5m2: 57344 }

/**
 * The nearest codes of x (f32, f16 or bf16), or of x times `scale` (f32 [1]), ties to even; u8, of the same shape, without a
 * gradient. Finite numbers beyond the largest become it; with `saturate` false they become what infinities become in any
 * case: infinity, or NaN in E4M3, which has none.
 * @throws ERR_DTYPE, ERR_SHAPE
 */
export function toFp8(x: Tensor, format: Fp8Format, { saturate = true, scale = null }: { saturate?: boolean; scale?: Tensor | null } = {}): Tensor {
  return run1('to_fp8', [x, scale], { format, saturate })
}

/** The numbers that codes stand for, exact in f32, f16 and bf16. */
export function fromFp8(codes: Tensor, format: Fp8Format, dtype: Exclude<DType, 'f64'> = 'f32'): Tensor {
  return run1('from_fp8', [codes], { format, dtype })
}

export interface Fp8Operand {
  /** u8 [rows, k] */
  codes: Tensor
  format: Fp8Format
  /** f32 [1]: numbers are codes times this. */
  factor: Tensor
}

/**
 * The rows of a [m, k] times the rows of b [n, k], sums in f32 and times both factors: f32 [m, n], without a gradient. GPUs from
 * sm_89 on multiply the codes themselves where k and n are multiples of 16 and not both formats are E5M2; their tensor
 * cores keep about 14 bits of a sum under way.
 * @throws ERR_DTYPE, ERR_SHAPE
 */
export function fp8Matmul(a: Fp8Operand, b: Fp8Operand): Tensor {
  return run1('fp8_matmul', [a.codes, b.codes, a.factor, b.factor], { format_a: a.format, format_b: b.format })
}
