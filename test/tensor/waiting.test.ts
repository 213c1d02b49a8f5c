// The statistics' seconds in which a device had nothing to do.
import { randn } from '../../lib/ops/random'
import { matmul } from '../../lib/ops/matmul'
import { getDevice } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'

const device = getDevice('cpu')
const waited = () => device.stats().waitedSeconds
const busy = () => device.stats().busySeconds

test('a device waits while JavaScript does something else, and does not while it has work', async () => {
  await device.synchronize()
  const before = waited()
  await new Promise((resolve) => setTimeout(resolve, 200))
  const idle = waited() - before
  expect(idle).toBeGreaterThan(0.19)

  const [from, start, worked] = [performance.now(), waited(), busy()]
  scope(() => {
    const x = randn([512, 512])
    for (let i = 0; i < 20; ++i) matmul(x, x).dispose()
  })
  await device.synchronize()
  const seconds = (performance.now() - from) / 1000
  // Whatever else runs on the machine: work and waiting are not the same seconds.
  expect(waited() - start + busy() - worked).toBeLessThan(seconds)
})
