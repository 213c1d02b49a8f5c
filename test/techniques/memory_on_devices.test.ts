// Checkpointing and offloading on every device: the losses of a plain run on it, bit for bit, with fewer bytes.
import { checkpointing } from '../../lib/techniques/checkpointing'
import { offload } from '../../lib/techniques/offload'
import type { Technique } from '../../lib/techniques/technique'
import { getDevice } from '../../lib/tensor/device'
import { testDevices } from '../support/devices'
import { collectGarbage } from '../support/garbage'
import { tinyTrainer, tokenBatch } from '../support/tiny_gpt'

const config = { vocab: 31, context: 16, layers: 4, width: 32, heads: 2, dropout: 0.1 }

async function run(device: string, techniques: Technique[]) {
  const before = (await getDevice(device).synchronize()).liveBytes
  const begins = getDevice(device).program().liveBytes // what budgets count from: also what failed in an earlier test
  const { trainer, model, optimizer } = tinyTrainer({ config, modelDevice: device, techniques, steps: 5, data: { batch: (i) => tokenBatch(i, 4, 16) } })
  const losses: number[] = []
  let peak = 0
  for await (const metrics of trainer.train()) {
    losses.push(metrics.loss)
    peak = metrics.peakBytes - before
  }
  model.dispose()
  optimizer.dispose()
  expect((await getDevice(device).synchronize()).liveBytes).toBe(before)
  expect(getDevice(device).program().liveBytes).toBe(begins)
  return { losses, peak, begins }
}

beforeAll(collectGarbage)

describe.each(testDevices().map(({ name }) => name))('%s', (device) => {
  test('checkpointing, offloading, and both', async () => {
    const plain = await run(device, [])
    const places = device === 'cpu' ? (['disk'] as const) : (['host', 'disk'] as const)
    for (const place of places) {
      const everything = () => offload.create({ state: place, gradients: place, activations: place, piece: '8KiB' })
      for (const techniques of [[everything()], [everything(), checkpointing.create({ policy: 'sqrt' })]]) {
        const found = await run(device, techniques)
        expect(found.losses).toEqual(plain.losses)
        expect(found.peak).toBeLessThan(0.8 * plain.peak)
      }
    }
    const budget = plain.begins + Math.floor(0.9 * plain.peak)
    const planned = await run(device, [checkpointing.create({ policy: 'optimal', budget: String(budget) })])
    expect(planned.losses).toEqual(plain.losses)
    expect(planned.begins + planned.peak).toBeLessThanOrEqual(budget)
  })
})
