// Every device of the process trains: what it computes does not depend on what the others do at the same time, and numbers
// go from one to the other by way of the host.
import { backward } from '../../lib/autograd/backward'
import { mul } from '../../lib/ops/elementwise'
import { sum } from '../../lib/ops/reductions'
import { listDevices, type Device } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { tinyTrainer, trainAll } from '../support/tiny_gpt'

const steps = 6
const devices = listDevices().filter(({ name }) => name !== 'meta')
const losses: Record<string, number[]> = {}

async function trainOn(device: Device): Promise<number[]> {
  const { trainer, model, optimizer } = tinyTrainer({ modelDevice: device.name, steps })
  const values = await trainAll(trainer)
  model.dispose()
  optimizer.dispose()
  return values
}

test.each(devices.map((device) => [device.name, device] as const))('%s trains as the CPU does', async (name, device) => {
  losses[name] = await trainOn(device)
  losses.cpu ??= await trainOn(devices.find((other) => other.name === 'cpu')!)
  losses[name].forEach((loss, i) => expect(Math.abs(loss / losses.cpu[i] - 1)).toBeLessThan(1e-4))
})

test('devices that train at the same time give the bits that each gives alone', async () => {
  const runs = devices.map((device) => ({ device, ...tinyTrainer({ modelDevice: device.name, steps }) }))
  const values = await Promise.all(runs.map(({ trainer }) => trainAll(trainer)))
  values.forEach((own, i) => expect(own).toEqual(losses[devices[i].name]))
  for (const { model, optimizer } of runs) {
    model.dispose()
    optimizer.dispose()
  }
})

test('numbers copied from device to device keep their bits, and gradients stay where their tensors are', async () => {
  const values = Float32Array.from({ length: 5000 }, (_, i) => Math.sin(i))
  let last: Tensor = tensor(values, [50, 100], { device: devices[0] })
  for (const device of [...devices, ...devices]) {
    const next = tensor((await last.data()) as Float32Array, last.shape, { device, requiresGrad: true })
    last.dispose()
    scope(() => backward(sum(mul(next, next))))
    expect(next.grad!.device.name).toBe(device.name)
    expect(Array.from(await next.grad!.data() as Float32Array).slice(0, 3)).toEqual(Array.from(values.slice(0, 3), (x) => 2 * x))
    next.grad!.dispose()
    next.grad = null
    last = next
  }
  expect(await last.data()).toEqual(values)
  last.dispose()
})
