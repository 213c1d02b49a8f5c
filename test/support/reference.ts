// Pieces that several float64 references share.
import { count, type HostTensor } from './samples'

export function broadcastShape(...shapes: (readonly number[])[]): number[] {
  const rank = Math.max(...shapes.map((shape) => shape.length))
  return Array.from({ length: rank }, (_, axis) => {
    const sizes = shapes.map((shape) => shape[axis - rank + shape.length] ?? 1)
    return sizes.find((size) => size !== 1) ?? 1
  })
}

/** The multi-index of a flat one. */
export function unravel(flat: number, shape: readonly number[]): number[] {
  const index = new Array<number>(shape.length)
  for (let axis = shape.length - 1; axis >= 0; --axis) {
    index[axis] = flat % shape[axis]
    flat = Math.floor(flat / shape[axis])
  }
  return index
}

/** The element of x that a multi-index of a broadcast result stands on. */
export function at(x: HostTensor, index: readonly number[]): number {
  let flat = 0
  for (let axis = 0; axis < x.shape.length; ++axis) {
    const i = x.shape[axis] === 1 ? 0 : index[axis + index.length - x.shape.length]
    flat = flat * x.shape[axis] + i
  }
  return x.data[flat]
}

/** f over broadcast tensors, element by element. */
export function broadcasted(inputs: HostTensor[], f: (values: number[]) => number): HostTensor {
  const shape = broadcastShape(...inputs.map((x) => x.shape))
  const data = Float64Array.from({ length: count(shape) }, (_, flat) => {
    const index = unravel(flat, shape)
    return f(inputs.map((x) => at(x, index)))
  })
  return { shape, data }
}

/** The error function to full double precision: its series, or its continued fraction far out. */
export function erf(x: number): number {
  const size = Math.abs(x)
  if (size > 6) return Math.sign(x)
  if (size < 3) {
    let term = x
    let sum = x
    for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); ++n) {
      term *= (2 * x * x) / (2 * n + 1)
      sum += term
    }
    return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum
  }
  let fraction = 0
  for (let n = 60; n > 0; --n) fraction = n / 2 / (size + fraction)
  return Math.sign(x) * (1 - Math.exp(-size * size) / Math.sqrt(Math.PI) / (size + fraction))
}
