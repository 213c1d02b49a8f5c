// The devices that operator tests run on: every one of this process that computes. LEANFORMER_TEST_DEVICES=cpu,cuda:0 names
// them instead; one that is named and absent is an error, never a skip.
import { addon } from '../../lib/native/binding'
import { getDevice, listDevices, type Device } from '../../lib/tensor/device'

export function testDevices(): Device[] {
  const named = process.env.LEANFORMER_TEST_DEVICES
  if (named) return named.split(',').map((name) => getDevice(name.trim()))
  return listDevices().filter((device) => device.name !== 'meta')
}

/** Runs `body` with guard bytes round every block; fails when a kernel wrote outside of its tensors. */
export async function withGuards<T>(device: Device, body: () => Promise<T>): Promise<T> {
  device.checkGuards(true)
  try {
    const result = await body()
    await device.synchronize()
    return result
  } finally {
    device.checkGuards(false)
    device.clearError()
  }
}

/** Runs `body` on `count` threads of the CPU pool. */
export async function withThreads<T>(count: number, body: () => Promise<T>): Promise<T> {
  const before = addon.threads()
  addon.setThreads(count)
  try {
    return await body()
  } finally {
    addon.setThreads(before)
  }
}
