// Checkpointing and offloading on every device: the losses of a plain run on it, bit for bit, with fewer bytes. On a GPU pages
// move beside the kernels: many are launched between the beginning of a copy and the first that must come after it.
import { checkpointing } from '../../lib/techniques/checkpointing'
import { delayedUpdate } from '../../lib/techniques/delayed_update'
import { offload } from '../../lib/techniques/offload'
import type { Technique } from '../../lib/techniques/technique'
import { updateInBackward } from '../../lib/techniques/update_in_backward'
import { getDevice } from '../../lib/tensor/device'
import { testDevices } from '../support/devices'
import { collectGarbage } from '../support/garbage'
import { tinyTrainer, tokenBatch } from '../support/tiny_gpt'

const config = { vocab: 31, context: 16, layers: 4, width: 32, heads: 2, dropout: 0.1 }

async function run(device: string, techniques: Technique[]) {
  const start = await getDevice(device).synchronize()
  const before = start.liveBytes
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
  // What waits for a step that does not come.
  techniques.find(({ name }) => name === 'delayed_update')?.load!({ tensors: new Map() })
  const end = await getDevice(device).synchronize()
  expect(end.liveBytes).toBe(before)
  expect(getDevice(device).program().liveBytes).toBe(begins)
  const copies = end.copies - start.copies
  return { losses, peak, begins, copies, beside: (end.kernelsBesideCopies - start.kernelsBesideCopies) / copies }
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
        if (device === 'cpu') expect(found.copies).toBe(0)
        else {
          expect(found.copies).toBeGreaterThan(500)
          // On a real GPU a copy of this size may have ended before the next launch.
          if (process.env.GPUSIM_HOME) expect(found.beside).toBeGreaterThan(techniques.length === 1 ? 1 : 0)
        }
      }
    }
    const budget = plain.begins + Math.floor(0.9 * plain.peak)
    const planned = await run(device, [checkpointing.create({ policy: 'optimal', budget: String(budget) })])
    expect(planned.losses).toEqual(plain.losses)
    expect(planned.begins + planned.peak).toBeLessThanOrEqual(budget)
  })

  test('late updates in the backward pass, with offloaded moments: the bits of updates after it', async () => {
    const place = device === 'cpu' ? 'disk' : 'host'
    const state = () => offload.create({ state: place, piece: '32KiB' })
    const late = () => delayedUpdate.create({ from: 0 })
    const plain = await run(device, [late()])
    const after = await run(device, [state(), late()])
    const within = await run(device, [state(), late(), updateInBackward.create()])
    for (const { losses } of [after, within]) expect(losses).toEqual(plain.losses)
    expect(within.copies).toBe(after.copies)
    if (process.env.GPUSIM_HOME && device !== 'cpu') expect(within.beside).toBeGreaterThan(100)
  })

  test('every placement of an offloaded step fails once, in the host\'s memory too: a coded error, and the next step works', async () => {
    const place = device === 'cpu' ? 'disk' : 'host'
    const technique = offload.create({ state: place, gradients: place, activations: place, piece: '8KiB' })
    const { trainer, model, optimizer } = tinyTrainer({
      config: { vocab: 16, context: 16, layers: 1, width: 16, heads: 1 },
      modelDevice: device,
      techniques: [technique],
      steps: 100_000,
      data: { batch: (i) => tokenBatch(i, 8, 16, 16) },
    })
    const where = getDevice(device)
    const oneStep = async () => {
      const steps = trainer.train()
      const { loss } = (await steps.next()).value
      await steps.return(undefined)
      return loss
    }
    await oneStep()
    await oneStep()
    const { liveBytes } = await where.synchronize()
    const messages = new Set<string>()
    const stride = process.env.GPUSIM_HOME && device !== 'cpu' ? 9 : 1 // the simulator takes its time
    let failures = 0
    for (; ; failures += stride) {
      where.failPlacement(failures + 1)
      const error = (await oneStep().then(() => null, (caught: unknown) => caught)) as { code?: string; message: string } | null
      where.failPlacement(0)
      where.clearError()
      if (!error) break
      expect(error).toMatchObject({ code: 'ERR_OUT_OF_MEMORY' })
      messages.add(error.message.replace(/ (out of memory|memory left)[^]*/, ''))
      expect(Number.isFinite(await oneStep())).toBe(true)
      expect((await where.synchronize()).liveBytes).toBe(liveBytes)
    }
    expect(failures).toBeGreaterThan(60)
    expect([...messages].join()).toMatch(/_backward:/)
    // The CPU writes to the file from where the numbers are.
    expect([...messages]).toEqual(expect.arrayContaining(['write:', 'offload:', ...(device === 'cpu' ? [] : ['offload: the host has no page-locked'])]))
    model.dispose()
    optimizer.dispose()
  }, 300_000)
})
