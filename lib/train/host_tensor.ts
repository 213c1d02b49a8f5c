// Tensors on the host, as checkpoints hold them.
import { newHostArray } from '../native/dtype'
import type { Device } from '../tensor/device'
import { tensor, type Tensor } from '../tensor/tensor'
import type { HostTensor } from './safetensors'

export type { HostTensor }

/** The tensor's bytes, as of this point in the device's order of work. */
export async function toHost(source: Tensor): Promise<HostTensor> {
  const { dtype, shape } = source
  const data = await source.data()
  return { dtype, shape: [...shape], data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) }
}

export function fromHost(source: HostTensor, device: Device): Tensor {
  const size = source.shape.reduce((n, d) => n * d, 1)
  const typed = newHostArray(source.dtype, size)
  new Uint8Array(typed.buffer).set(source.data)
  return tensor(typed, source.shape, { dtype: source.dtype, device })
}
