// Moments of tensors.
import type { Tensor } from '../../lib/tensor/tensor'

/** Root of the mean square: the standard deviation of numbers whose mean is 0. */
export async function deviation(x: Tensor): Promise<number> {
  const data = await x.toFloat64()
  return Math.sqrt(data.reduce((sum, value) => sum + value * value, 0) / data.length)
}

/** max |a - b| */
export async function distance(a: Tensor, b: Tensor): Promise<number> {
  const [x, y] = [await a.toFloat64(), await b.toFloat64()]
  return x.reduce((most, value, i) => Math.max(most, Math.abs(value - y[i])), 0)
}
