// The same numbers on another device. Between two CUDA devices they go straight from one to the other, beside the kernels of both;
// otherwise through the host.
import { record } from '../autograd/tape'
import { getDevice, type Device } from '../tensor/device'
import { copyToDevice, type Tensor } from '../tensor/tensor'

/** `x` on `device`, and the gradient back on the device of `x`. On the device where it is already: the same tensor again. */
export function to(x: Tensor, device: string | Device): Tensor {
  const there = getDevice(device)
  if (there === x.device) return x.alias()
  const y = copyToDevice(x, there)
  record('to', [x], [y], [], ([grad]) => [copyToDevice(grad!, x.device)])
  return y
}
