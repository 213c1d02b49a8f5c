// Tensors of random numbers. Each call takes the next block of a generator, so results depend on the seed and on the order
// of calls alone, not on device or threads.
import type { DType } from '../native/dtype'
import { getDevice, type Device } from '../tensor/device'
import { defaultGenerator, type Generator } from '../tensor/random'
import { run1, type Tensor } from '../tensor/tensor'

export interface RandomOptions {
  device?: string | Device
  dtype?: DType
  generator?: Generator
}

function draw(name: 'random_uniform' | 'random_normal', shape: readonly number[], options: RandomOptions): Tensor {
  const { dtype = 'f32', generator = defaultGenerator } = options
  return run1(name, [], { shape, ...generator.next(), dtype }, getDevice(options.device))
}

/** Uniform in [0, 1), multiples of 2^-24. */
export function rand(shape: readonly number[], options: RandomOptions = {}): Tensor {
  return draw('random_uniform', shape, options)
}

/** Standard normal. */
export function randn(shape: readonly number[], options: RandomOptions = {}): Tensor {
  return draw('random_normal', shape, options)
}
