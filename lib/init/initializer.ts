// What every initialiser of this folder is: a function from a shape to a fresh tensor.
import type { DType } from '../native/dtype'
import { getDevice, type Device } from '../tensor/device'
import { defaultGenerator, type Generator } from '../tensor/random'
import type { Tensor } from '../tensor/tensor'

export interface InitializerOptions {
  device?: string | Device
  dtype?: DType
  generator?: Generator
}

export type Initializer = (shape: readonly number[], options?: InitializerOptions) => Tensor

export function resolveOptions(options: InitializerOptions = {}): { device: Device; dtype: DType; generator: Generator } {
  return {
    device: getDevice(options.device),
    dtype: options.dtype ?? 'f32',
    generator: options.generator ?? defaultGenerator,
  }
}

/** Inputs and outputs of one unit of a weight: [out, in] for matrices, [out, in, ...kernel] for convolutions. */
export function fans(shape: readonly number[]): { fanIn: number; fanOut: number } {
  const receptive = shape.slice(2).reduce((n, d) => n * d, 1)
  if (shape.length < 2) return { fanIn: shape[0] ?? 1, fanOut: shape[0] ?? 1 }
  return { fanIn: shape[1] * receptive, fanOut: shape[0] * receptive }
}
