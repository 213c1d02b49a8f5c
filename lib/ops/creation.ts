// Tensors of given numbers.
import type { DType } from '../native/dtype'
import { LeanformerError } from '../native/errors'
import { getDevice } from '../tensor/device'
import { run1, setRequiresGrad, tensor, type Tensor, type TensorOptions } from '../tensor/tensor'
import { checkHolds } from './broadcast'

/**
 * Every element `value`.
 * @throws ERR_ARGUMENT when an integer format does not hold it
 */
export function full(shape: readonly number[], value: number, options: TensorOptions = {}): Tensor {
  const { dtype = 'f32', device, requiresGrad } = options
  checkHolds('full', dtype, value)
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

/**
 * start, start + step, ... below `stop`; i32 unless another dtype is given.
 * @throws ERR_ARGUMENT when the step is 0, or start or step are fractions and the dtype is for whole numbers
 */
export function arange(stop: number, options: { start?: number; step?: number; dtype?: DType; device?: string } = {}): Tensor {
  const { start = 0, step = 1, dtype = 'i32', device } = options
  if (!Number.isFinite(stop - start) || !Number.isFinite(step) || step === 0) {
    const message = `arange: from ${start} to ${stop} by ${step} never ends`
    throw new LeanformerError('ERR_ARGUMENT', message, 'three finite numbers, and a step other than 0')
  }
  const count = Math.max(0, Math.ceil((stop - start) / step))
  for (const value of count ? [start, start + (count - 1) * step, step] : []) checkHolds('arange', dtype, value)
  return tensor(Array.from({ length: count }, (_, i) => start + i * step), [count], { dtype, device })
}
