// A matrix in another form that is not trained: codes and scales in place of numbers, or what is not zero of it. Products
// unfold it, forward and again backward, and keep nothing of what they unfolded, unless the form has a product of its own.
import { noGrad, record } from '../autograd/tape'
import type { DType } from '../native/dtype'
import { inFormatOf } from '../ops/broadcast'
import { linear } from '../ops/linear'
import { matmul } from '../ops/matmul'
import { sum } from '../ops/reductions'
import { rowsOf } from '../ops/reshape'
import { scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { Module } from './module'
import { Parameter } from './parameter'

/** Numbers that belong to a model and its file but never change in training, in any format. */
export class Constant extends Parameter {
  constructor(value: Tensor) {
    super(value)
    this.trainable = false
  }

  override setComputeDType(): void {}
}

export abstract class PackedWeight extends Module<[dtype: DType]> {
  /** Of the matrix: [out, in]. */
  abstract readonly shape: readonly [number, number]

  /** The matrix as plain numbers [out, in]. */
  abstract override forward(dtype: DType): Tensor

  /** x [..., in] W^T + bias + residual, where given. */
  product(x: Tensor, bias?: Tensor | null, residual?: Tensor | null): Tensor {
    return packedLinear(x, this, bias, residual)
  }

  /** Bytes of codes and scales. */
  get bytes(): number {
    return this.parameters().reduce((n, { tensor }) => n + tensor.size * (tensor.dtype === 'f32' || tensor.dtype === 'i32' ? 4 : 1), 0)
  }
}

/** linear() with a packed weight: x [..., in] -> [..., out]. */
export function packedLinear(x: Tensor, weight: PackedWeight, bias?: Tensor | null, residual?: Tensor | null): Tensor {
  const out = scope(() => noGrad(() => linear(x, weight.call(x.dtype), bias, residual)))
  record('packed_linear', [x, bias, residual], [out], [x], ([grad], [input], context) =>
    noGrad(() => {
      const g = rowsOf(inFormatOf(grad!, input))
      const dx = context.needs(0) ? matmul(g, weight.call(input.dtype)).viewAs(input.shape) : null
      return [dx, context.needs(1) ? sum(g, [0]) : null, context.needs(2) ? grad : null]
    }),
  )
  return out
}
