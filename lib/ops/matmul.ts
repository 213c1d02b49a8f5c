// Matrix products, single and batched, either side transposed.
import type { DType } from '../native/dtype'
import { record } from '../autograd/tape'
import { run, run1, type Tensor } from '../tensor/tensor'

export type Activation = 'none' | 'gelu' | 'gelu_exact' | 'silu' | 'relu'

export interface MatmulOptions {
  transposeA?: boolean
  transposeB?: boolean
  /** Result format: that of the inputs, or 'f32' for sums that must not be rounded to 16 bits. */
  outDType?: DType
}

/** @internal The native operator with all its options and nothing on the tape. */
export interface Product extends MatmulOptions {
  bias?: Tensor | null
  residual?: Tensor | null
  activation?: Activation
  gradInput?: Tensor | null
  gradActivation?: Activation
  into?: Tensor | null
  rowSumsInto?: Tensor | null
  savePreActivation?: boolean
  /** With gradInput: gives gradActivation(gradInput) too. */
  saveActivatedInput?: boolean
  rowSums?: boolean
}

/** @internal [product (unless `into`), pre-activation and activated input (if saved), row sums (if asked for, unless `rowSumsInto`)]. */
export function product(a: Tensor, b: Tensor, options: Product = {}): Tensor[] {
  return run(
    'matmul',
    [a, b, options.bias, options.residual, options.gradInput, options.into, options.rowSumsInto],
    {
      transpose_a: options.transposeA ?? false,
      transpose_b: options.transposeB ?? false,
      activation: options.activation ?? 'none',
      grad_activation: options.gradActivation ?? 'none',
      save_pre_activation: options.savePreActivation ?? false,
      save_activated_input: options.saveActivatedInput ?? false,
      row_sums: options.rowSums ?? false,
      out_dtype: options.outDType ?? a.dtype,
    },
  )
}

const leadingSize = (t: Tensor) => t.size === 0 ? 0 : t.size / (t.shape[t.rank - 1] * t.shape[t.rank - 2])

/** Sums the batch axes of a gradient away when the operand had none (or one entry), and gives it the operand's shape. */
function toOperand(grad: Tensor, operand: Tensor): Tensor {
  if (grad.size === operand.size) return grad.viewAs(operand.shape)
  const [rows, columns] = operand.shape.slice(-2)
  const folded = grad.viewAs([leadingSize(grad), rows, columns])
  return run1('sum', [folded], { axes: [0], keepdims: false }).viewAs(operand.shape)
}

/**
 * op(a) op(b). a [..., m, k] and b [..., k, n] give [..., m, n]; a transposed side is stored the other way round.
 * Leading axes are a batch: equal on both sides, or of total size 1 on one. f32, f16, bf16 (sums in f32) and f64.
 * @throws ERR_SHAPE, ERR_DTYPE
 */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  const { transposeA = false, transposeB = false } = options
  const [out] = product(a, b, options)
  record('matmul', [a, b], [out], [a, b], ([grad], [x, y], context) => {
    // The gradient takes part in products with the inputs, so it takes their format.
    const g = grad!.dtype === x.dtype ? grad! : run1('cast', [grad!], { dtype: x.dtype })
    let da: Tensor | null = null
    let db: Tensor | null = null
    if (context.needs(0)) {
      const [full] = transposeA
        ? product(y, g, { transposeA: transposeB, transposeB: true, outDType: gradDType(x, context.dtype(0)) })
        : product(g, y, { transposeB: !transposeB, outDType: gradDType(x, context.dtype(0)) })
      da = toOperand(full, x)
    }
    if (context.needs(1)) {
      const outDType = gradDType(y, context.dtype(1))
      if (leadingSize(y) === 1 && !transposeA && leadingSize(x) !== 1) {
        // One product over all rows instead of a sum over the batch.
        const rows = x.viewAs([x.size / x.shape[x.rank - 1], x.shape[x.rank - 1]])
        const grows = g.viewAs([g.size / g.shape[g.rank - 1], g.shape[g.rank - 1]])
        const [full] = transposeB
          ? product(grows, rows, { transposeA: true, outDType })
          : product(rows, grows, { transposeA: true, outDType })
        db = full.viewAs(y.shape)
      } else {
        const [full] = transposeB
          ? product(g, x, { transposeA: true, transposeB: transposeA, outDType })
          : product(x, g, { transposeA: !transposeA, outDType })
        db = toOperand(full, y)
      }
    }
    return [da, db]
  })
  return out
}

/** @internal A product can be written in the format of its inputs or in f32. */
export function gradDType(operand: Tensor, wanted: DType): DType {
  return wanted === 'f32' ? 'f32' : operand.dtype
}
