// 10,000 steps of a tiny model: native bytes, handles and the JavaScript heap stay flat. And while a model trains with all
// threads, timers in the same process stay on time.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { getDevice, liveHandles } from '../../lib/tensor/device'
import { collectGarbage } from '../support/garbage'
import { tinyTrainer, tokenBatch } from '../support/tiny_gpt'

// A simulated GPU (GPUSIM_HOME) takes some 30 ms a step of the smallest model.
const simulated = Boolean(process.env.GPUSIM_HOME)
const soakSteps = simulated ? 500 : 10_000
const tiny = { vocab: 16, context: 4, layers: 1, width: 8, heads: 1 }

test(`${soakSteps} steps leave nothing behind`, async () => {
  const { trainer, model, optimizer } = tinyTrainer({
    config: tiny,
    steps: soakSteps,
    data: { batch: (i) => tokenBatch(i, 1, tiny.context, tiny.vocab) },
  })
  await collectGarbage()
  const seen: { live: number; reserved: number; handles: number; heap: number }[] = []
  const device = getDevice()
  for await (const { step, liveBytes } of trainer.train()) {
    if (step % (soakSteps / 5) !== 0) continue
    await collectGarbage()
    const { reservedBytes } = await device.synchronize()
    seen.push({ live: liveBytes, reserved: reservedBytes, handles: liveHandles(), heap: process.memoryUsage().heapUsed })
  }
  const [first, ...rest] = seen
  for (const later of rest) {
    expect(later.live).toBe(first.live)
    expect(later.reserved).toBe(first.reserved)
    expect(later.handles).toBe(first.handles)
  }
  // Collected, so what is left is held. Up to the second reading V8 compiles: 0.3 MB. From there 54 bytes a step would be 320 kB;
  // measured: up and down by 160 kB.
  for (const { heap } of seen.slice(2)) expect(heap).toBeLessThan(seen[1].heap + 320e3)
  expect(seen).toHaveLength(5)
  model.dispose()
  optimizer.dispose()
}, 120_000)

const p99 = (delays: number[]) => delays.sort((a, b) => a - b)[Math.floor(delays.length * 0.99)]

const idleProgram = `
  const delays = []
  let last = performance.now()
  setInterval(() => {
    const now = performance.now()
    delays.push(now - last - 5)
    last = now
  }, 5)
  process.on('message', () => process.send(delays, () => process.exit()))`

/** p99 of the same timer in a process that does nothing else, from now on until the result is called for. */
function idleTimer(): () => Promise<number> {
  const child = spawn(process.execPath, ['-e', idleProgram], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  return async () => {
    child.send('done')
    const [delays] = (await once(child, 'message')) as [number[]]
    return p99(delays)
  }
}

test('a 5 ms timer has a p99 delay under 20 ms while all cores train', async () => {
  const config = { vocab: 64, context: 128, layers: 4, width: 192, heads: 4 }
  const { trainer, model, optimizer } = tinyTrainer({
    config,
    modelDevice: 'cpu',
    steps: 40,
    data: { batch: (i) => tokenBatch(i, 8, config.context, config.vocab) },
  })
  const idle = idleTimer()
  const delays: number[] = []
  let last = performance.now()
  const timer = setInterval(() => {
    const now = performance.now()
    delays.push(now - last - 5)
    last = now
  }, 5)
  for await (const metrics of trainer.train()) expect(metrics.loss).toBeGreaterThan(0)
  clearInterval(timer)
  const idleP99 = await idle()
  expect(delays.length).toBeGreaterThan(50)
  // Where other programs keep the machine busy, no process is on time: then twice the delay of an idle one.
  expect(p99(delays)).toBeLessThan(Math.max(20, 2 * idleP99))
  model.dispose()
  optimizer.dispose()
}, 60_000)
