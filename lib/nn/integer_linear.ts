// Linear layers whose products are of int8 codes. int8Linear: codes of the rows of x and W found at each call (one scale a
// token and one an output), gradients from the numbers as they are (SwitchBack without its int8 gradient).
// integerLinear: from numbers that lie on grids already, for quantisation-aware training.
// Source: Wortsman et al., arXiv 2304.13013.
import { noGrad, record } from '../autograd/tape'
import { inFormatOf } from '../ops/broadcast'
import { cast } from '../ops/cast'
import { add, mul } from '../ops/elementwise'
import { int8Matmul, quantizeRows, type QuantizedRows } from '../ops/int8_matmul'
import { matmul } from '../ops/matmul'
import { sum } from '../ops/reductions'
import { rowsOf } from '../ops/reshape'
import { scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import type { Linear } from './linear'
import { Module } from './module'

type Narrow = 'f32' | 'f16' | 'bf16'

/** Records y = x W^T + bias + residual, however it was computed, with the gradients of plain products of x and w. */
function recordProduct(x: Tensor, w: Tensor, bias: Tensor | null, residual: Tensor | null, out: Tensor): void {
  record('integer_linear', [x, w, bias, residual], [out], [x, w], ([grad], [input, weight], context) =>
    noGrad(() => {
      const g = rowsOf(inFormatOf(grad!, input))
      const same = weight.dtype === input.dtype ? weight : cast(weight, input.dtype)
      const dx = context.needs(0) ? matmul(g, same).viewAs(input.shape) : null
      const dw = context.needs(1) ? matmul(g, rowsOf(input), { transposeA: true, outDType: context.dtype(1) === 'f32' ? 'f32' : input.dtype }) : null
      return [dx, dw, context.needs(2) ? sum(cast(g, 'f32'), [0]) : null, context.needs(3) ? grad : null]
    }),
  )
}

export interface IntegerOperands {
  x: QuantizedRows
  zeros?: Tensor | null
  /** f32 [1]: x is its codes times their scales plus this, which adds a constant to each output. */
  offset?: Tensor | null
  w: QuantizedRows
}

/** What an offset of all inputs adds to each output. */
const offsetPart = ({ codes, scales }: QuantizedRows, offset: Tensor) => mul(mul(sum(cast(codes, 'f32'), [1]), scales), offset)

/** y = x W^T + bias (+ residual) by codes: x and w are what they stand for and receive the gradients. */
export function integerLinear(x: Tensor, w: Tensor, codes: IntegerOperands, bias: Tensor | null, residual: Tensor | null): Tensor {
  const out = scope(() =>
    noGrad(() => {
      const constant = codes.offset ? offsetPart(codes.w, codes.offset) : null
      const whole = bias && constant ? add(bias, constant) : (bias ?? constant)
      const y = int8Matmul(codes.x, codes.w, { zeros: codes.zeros, bias: whole, outDType: x.dtype as Narrow })
      return residual ? add(y, residual) : y
    }),
  )
  recordProduct(x, w, bias, residual, out)
  return out
}

/** y = x W^T + bias (+ residual), forward by int8 codes; gradients as if it had not been. f32, f16 and bf16. */
export function int8Linear(x: Tensor, w: Tensor, bias: Tensor | null = null, residual: Tensor | null = null): Tensor {
  const codes = noGrad(() => ({ x: quantizeRows(x), w: quantizeRows(w) }))
  return integerLinear(x, w, codes, bias, residual)
}

/** A layer's product through int8Linear. */
export class Int8Product extends Module<[x: Tensor, residual: Tensor | null, layer: Linear]> {
  forward(x: Tensor, residual: Tensor | null, layer: Linear): Tensor {
    return int8Linear(x, layer.weight.value, layer.bias?.value ?? null, residual)
  }
}
