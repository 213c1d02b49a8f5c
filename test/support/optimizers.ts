// Three steps of an optimiser in f64 on two numbers, as the published traces have them.
import { Parameter } from '../../lib/nn/parameter'
import type { Optimizer } from '../../lib/optim/optimizer'
import { keep } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'

export const gradients = [[0.1, -0.2], [0.3, 0.4], [-0.5, 0.05]]

/** The parameter (1, -2) after each step with lr 0.1. */
export async function follow(
  make: (parameters: Map<string, Parameter>) => Optimizer,
  steps: number[][] = gradients,
): Promise<number[][]> {
  const parameter = new Parameter(tensor([1, -2], null, { dtype: 'f64' }))
  const optimizer = make(new Map([['p', parameter]]))
  const trace: number[][] = []
  for (const values of steps) {
    parameter.tensor.grad = keep(tensor(values, null, { dtype: 'f64' }))
    optimizer.step(0.1)
    optimizer.zeroGrad()
    trace.push(Array.from(await parameter.tensor.toFloat64()))
  }
  optimizer.dispose()
  parameter.dispose()
  return trace
}
