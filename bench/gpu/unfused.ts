// Updates as they are without fused kernels, one elementwise operator after the other: what one launch for all parameters is
// measured against.
import { add, div, mul, reciprocal, sqrt, square, sub } from '../../lib/ops/elementwise'
import { sum } from '../../lib/ops/reductions'
import type { Tensor } from '../../lib/tensor/tensor'

export interface Updated {
  parameters: Tensor[]
  grads: Tensor[]
  m: Tensor[]
  v: Tensor[]
}

/** New parameters, as AdamW's third step makes them. */
export function composedAdamw({ parameters, grads, m, v }: Updated, options: { lr: number; weightDecay: number; beta1: number; beta2: number; eps: number }): Tensor[] {
  const { lr, weightDecay, beta1, beta2, eps } = options
  return parameters.map((parameter, i) => {
    const first = add(mul(m[i], beta1), mul(grads[i], 1 - beta1))
    const second = add(mul(v[i], beta2), mul(square(grads[i]), 1 - beta2))
    const [c1, c2] = [1 - beta1 ** 3, Math.sqrt(1 - beta2 ** 3)]
    return add(mul(parameter, 1 - lr * weightDecay), mul(div(first, add(mul(sqrt(second), 1 / c2), eps)), -lr / c1))
  })
}

/** SAM's way up along the gradients and back. */
export function composedSam({ parameters, grads }: Pick<Updated, 'parameters' | 'grads'>, rho: number): Tensor[] {
  const squares = grads.map((grad) => sum(square(grad))).reduce((a, b) => add(a, b))
  const factor = mul(reciprocal(add(sqrt(squares), 1e-12)), rho)
  const moves = grads.map((grad) => mul(grad, factor))
  const moved = parameters.map((parameter, i) => add(parameter, moves[i]))
  return moved.map((parameter, i) => sub(parameter, moves[i]))
}
