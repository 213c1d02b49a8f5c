// Tensors on the host, as checkpoints hold them, and the way of a file's tensors to a device, in pieces: loading takes
// little memory beside what is loaded.
import { dtypeBytes, newHostArray } from '../native/dtype'
import { noGrad } from '../autograd/tape'
import { cast } from '../ops/cast'
import { zeros } from '../ops/creation'
import { writeSlice } from '../ops/slice'
import type { Device } from '../tensor/device'
import { keep, scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import { hostDTypeBytes, type HostTensor, type StoredTensor } from './safetensors'

export type { HostTensor }

const kPieceBytes = 4 << 20

/** The tensor's bytes, as of this point in the device's order of work. */
export async function toHost(source: Tensor): Promise<HostTensor> {
  const { dtype, shape } = source
  const data = await source.data()
  return { dtype, shape: [...shape], data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) }
}

export function fromHost({ dtype, shape, data }: HostTensor, device: Device): Tensor {
  const typed = newHostArray(dtype, shape.reduce((n, d) => n * d, 1))
  new Uint8Array(typed.buffer).set(data)
  return tensor(typed, shape, { dtype, device })
}

/** Bytes of tensors in a file. */
export function bytesOfTensors(tensors: Iterable<Tensor>): number {
  let bytes = 0
  for (const { size, dtype } of tensors) bytes += size * dtypeBytes(dtype)
  return bytes
}

/** Fills `target`, of the same size and maybe another format, in place. One load at a time waits for the device. */
export async function loadInto(target: Tensor, stored: StoredTensor): Promise<void> {
  const { dtype } = stored
  const bytes = hostDTypeBytes[dtype]
  const most = kPieceBytes / bytes
  const buffer = new Uint8Array(Math.min(most, target.size) * bytes)
  for (let from = 0; from < target.size; from += most) {
    const count = Math.min(most, target.size - from)
    const data = buffer.subarray(0, count * bytes)
    await stored.read(data, from * bytes)
    noGrad(() =>
      scope(() => {
        const piece = fromHost({ dtype, shape: [count], data }, target.device)
        writeSlice(target.viewAs([target.size]), cast(piece, target.dtype), [from])
      }),
    )
    target.bumpVersion()
    await target.device.synchronize()
  }
}

/** A stored tensor on a device; the caller's own. */
export async function loadTensor(stored: StoredTensor, device: Device): Promise<Tensor> {
  const { dtype, shape } = stored
  const fresh = keep(zeros(shape, { dtype, device }))
  await loadInto(fresh, stored)
  return fresh
}
