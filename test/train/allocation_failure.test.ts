// Every placement of a training step fails once: each time a coded error that names tensors, nothing left behind, and the
// next step works.
import { testDevices } from '../support/devices'
import { collectGarbage } from '../support/garbage'
import { tinyTrainer, tokenBatch } from '../support/tiny_gpt'

const config = { vocab: 16, context: 4, layers: 1, width: 8, heads: 1 }

beforeAll(collectGarbage)

test.each(testDevices().map((device) => [device.name, device] as const))('%s', async (name, device) => {
  const { trainer, model, optimizer } = tinyTrainer({
    config,
    modelDevice: name,
    steps: 100_000,
    data: { batch: (i) => tokenBatch(i, 1, config.context, config.vocab) },
  })
  const steps = trainer.train()
  await steps.next()
  await steps.next() // one step more is on its way now
  await steps.return(undefined)
  const { liveBytes } = await device.synchronize()
  let failures = 0
  for (;;) {
    const attempt = trainer.train()
    device.failPlacement(failures + 1)
    const error = (await attempt.next().then(
      () => null,
      (caught: unknown) => caught,
    )) as { code?: string; message?: string } | null
    device.failPlacement(0)
    await attempt.return(undefined).catch(() => undefined)
    device.clearError()
    if (!error) break
    failures++
    expect(error).toMatchObject({ code: 'ERR_OUT_OF_MEMORY' })
    expect(error.message).toContain('largest live tensors')
    expect((await device.synchronize()).liveBytes).toBe(liveBytes)
    const next = trainer.train()
    expect(Number.isFinite((await next.next()).value.loss)).toBe(true)
    await next.return(undefined)
  }
  // Two layers of products, norms, attention and losses, forwards and backwards, place more than this.
  expect(failures).toBeGreaterThan(40)
  model.dispose()
  optimizer.dispose()
}, 120_000)
