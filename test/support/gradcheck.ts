// Gradients against finite differences of the float64 reference, by the central difference of fourth order
//   f'(x) ~ (8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / 12h,   h = 1e-3 max(1, |x|),
// whose own error is about 1e-12, so gradients computed in f64 must agree to 1e-6. The function differentiated is a
// weighted sum over one output, with the weights that backward() gets as its starting gradient.
import type { HostTensor } from './samples'

const kMaxElements = 48

/** Positions of an input to check: all, or evenly spread ones. */
export function positions(size: number): number[] {
  if (size <= kMaxElements) return Array.from({ length: size }, (_, i) => i)
  return Array.from({ length: kMaxElements }, (_, i) => Math.floor((i * size) / kMaxElements))
}

/** d(sum of weights * f)/dx at the given positions of `input`, which `f` reads; `input` is left as it was. */
export function finiteDifferences(
  f: () => HostTensor,
  input: HostTensor,
  weights: HostTensor,
  where: readonly number[],
): Float64Array {
  const value = (position: number, x: number) => {
    const before = input.data[position]
    input.data[position] = x
    const out = f().data
    input.data[position] = before
    let sum = 0
    for (let i = 0; i < out.length; ++i) sum += out[i] * weights.data[i]
    return sum
  }
  return Float64Array.from(where, (position) => {
    const x = input.data[position]
    const h = 1e-3 * Math.max(1, Math.abs(x))
    const near = value(position, x + h) - value(position, x - h)
    const far = value(position, x + 2 * h) - value(position, x - 2 * h)
    return (8 * near - far) / (12 * h)
  })
}
