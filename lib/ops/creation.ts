// Tensors of given numbers.
import type { DType } from '../native/dtype'
import { getDevice } from '../tensor/device'
import { run1, setRequiresGrad, tensor, type Tensor, type TensorOptions } from '../tensor/tensor'

/** Every element `value`. */
export function full(shape: readonly number[], value: number, options: TensorOptions = {}): Tensor {
  const { dtype = 'f32', device = 'cpu', requiresGrad } = options
  const out = run1('fill', [], { shape, value, dtype }, getDevice(device))
  return requiresGrad ? setRequiresGrad(out) : out
}

export function zeros(shape: readonly number[], options: TensorOptions = {}): Tensor {
  return full(shape, 0, options)
}

export function ones(shape: readonly number[], options: TensorOptions = {}): Tensor {
  return full(shape, 1, options)
}

/** Shape, dtype and device of another tensor. */
export function zerosLike(x: Tensor): Tensor {
  return zeros(x.shape, { dtype: x.dtype, device: x.device })
}

export function onesLike(x: Tensor): Tensor {
  return ones(x.shape, { dtype: x.dtype, device: x.device })
}

/** start, start + step, ... below `stop`; i32 unless another dtype is given. */
export function arange(stop: number, options: { start?: number; step?: number; dtype?: DType; device?: string } = {}): Tensor {
  const { start = 0, step = 1, dtype = 'i32', device } = options
  const count = Math.max(0, Math.ceil((stop - start) / step))
  return tensor(Array.from({ length: count }, (_, i) => start + i * step), [count], { dtype, device })
}
