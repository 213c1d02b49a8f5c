// Conversion between number formats.
import { checkDType, type DType } from '../native/dtype'
import { record } from '../autograd/tape'
import { run1, type Tensor } from '../tensor/tensor'

/**
 * x in another format; x itself when it has it already. To floating formats: rounded to nearest, ties to even. Floating to
 * integer: the fraction is cut off, values out of range become the nearest end of it, NaN becomes 0. To bool: x != 0.
 */
export function cast(x: Tensor, dtype: DType): Tensor {
  if (x.dtype === checkDType(dtype)) return x
  const y = run1('cast', [x], { dtype })
  record('cast', [x], [y], [], ([grad], _, context) => [run1('cast', [grad!], { dtype: context.dtype(0) })])
  return y
}
