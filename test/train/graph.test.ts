// A step that repeats itself runs as one graph where the device has graphs, with the same numbers as launch by launch.
import { getDevice, type Device } from '../../lib/tensor/device'
import { testDevices } from '../support/devices'
import { tinyTrainer, trainAll } from '../support/tiny_gpt'

async function losses(device: Device, steps: number, graphs: boolean): Promise<{ values: number[]; replays: number }> {
  const { trainer, model, optimizer } = tinyTrainer({ modelDevice: device.name, steps, evalEvery: 0 })
  // The time of operators can only be taken launch by launch.
  if (!graphs) device.timeOperators(true)
  const before = (await device.synchronize()).graphReplays
  const values = await trainAll(trainer)
  const replays = (await device.synchronize()).graphReplays - before
  device.timeOperators(false)
  model.dispose()
  optimizer.dispose()
  return { values, replays }
}

test.each(testDevices().map((device) => [device.name, device] as const))('%s: same losses with and without graphs', async (name, device) => {
  const steps = 8
  const plain = await losses(device, steps, false)
  const graphed = await losses(device, steps, true)
  expect(plain.replays).toBe(0)
  expect(graphed.values).toEqual(plain.values)
  // The first step makes the optimiser's state, the second is new, the third is recorded.
  expect(graphed.replays).toBe(name.startsWith('cuda') ? steps - 2 : 0)
})

test('an error within a repeating step leaves the device usable', async () => {
  const device = getDevice()
  expect(() => device.repeating(() => { throw new Error('mine') })).toThrow('mine')
  expect((await losses(device, 2, true)).values).toHaveLength(2)
})
