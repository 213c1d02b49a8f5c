// Products of int8 codes, exact in i32, and the codes of rows. Source: Dettmers et al., arXiv 2208.07339.
import type { DType } from '../native/dtype'
import { run, run1, type Tensor } from '../tensor/tensor'

/** i8 codes and the f32 step of each row: a row is codes * scale. */
export interface QuantizedRows {
  /** [..., n] */
  codes: Tensor
  /** [...] */
  scales: Tensor
}

/**
 * The rows of x [..., n] (f32, f16, bf16) as whole numbers from -top to top: s = max |x| / top, x / s to even. Rows of zeros
 * get zeros. No gradient. @throws ERR_DTYPE, ERR_ARGUMENT
 */
export function quantizeRows(x: Tensor, top = 127): QuantizedRows {
  const [codes, scales] = run('quantize_rows', [x], { top })
  return { codes, scales }
}

export interface Int8MatmulOptions {
  /** i32, one for each row of a or one in all: codes of a count from here. Default 0. */
  zeros?: Tensor | null
  /** f32 [n] */
  bias?: Tensor | null
  /** Default f32. */
  outDType?: Exclude<DType, 'f64'>
}

/**
 * a [..., k] times the rows of b [n, k]: y[i, j] = (sum_k (a[i, k] - zeros[i]) b[j, k]) (s[i] t[j]) + bias[j], the sum exact in i32.
 * Scales are f32, one for each row or one in all. No gradient. @throws ERR_SHAPE, ERR_DTYPE
 */
export function int8Matmul(a: QuantizedRows, b: QuantizedRows, { zeros, bias, outDType = 'f32' }: Int8MatmulOptions = {}): Tensor {
  return run1('int8_matmul', [a.codes, b.codes, a.scales, b.scales, zeros, bias], { out_dtype: outDType })
}
