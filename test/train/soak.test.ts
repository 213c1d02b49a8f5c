// 10,000 steps of a tiny model: native bytes, handles and the JavaScript heap stay flat. And while a model trains with all
// threads, timers in the same process stay on time.
import { getDevice, liveHandles } from '../../lib/tensor/device'
import { tinyTrainer, tokenBatch } from '../support/tiny_gpt'

const tiny = { vocab: 16, context: 4, layers: 1, width: 8, heads: 1 }

test('10,000 steps leave nothing behind', async () => {
  const { trainer, model, optimizer } = tinyTrainer({
    config: tiny,
    steps: 10_000,
    data: { batch: (i) => tokenBatch(i, 1, tiny.context, tiny.vocab) },
  })
  const seen: { live: number; reserved: number; handles: number; heap: number }[] = []
  const device = getDevice('cpu')
  for await (const { step, liveBytes } of trainer.train()) {
    if (step % 2000 !== 0) continue
    globalThis.gc?.()
    const { reservedBytes } = await device.synchronize()
    seen.push({ live: liveBytes, reserved: reservedBytes, handles: liveHandles(), heap: process.memoryUsage().heapUsed })
  }
  const [first, ...rest] = seen
  for (const later of rest) {
    expect(later.live).toBe(first.live)
    expect(later.reserved).toBe(first.reserved)
    expect(Math.abs(later.handles - first.handles)).toBeLessThan(200)
    // Without a forced collection the heap saws up and down by what V8 leaves lying about.
    expect(later.heap).toBeLessThan(first.heap + 48e6)
  }
  expect(seen).toHaveLength(5)
  model.dispose()
  optimizer.dispose()
}, 120_000)

test('a 5 ms timer has a p99 delay under 20 ms while all cores train', async () => {
  const config = { vocab: 64, context: 128, layers: 4, width: 192, heads: 4 }
  const { trainer, model, optimizer } = tinyTrainer({
    config,
    steps: 40,
    data: { batch: (i) => tokenBatch(i, 8, config.context, config.vocab) },
  })
  const delays: number[] = []
  let last = performance.now()
  const timer = setInterval(() => {
    const now = performance.now()
    delays.push(now - last - 5)
    last = now
  }, 5)
  for await (const metrics of trainer.train()) expect(metrics.loss).toBeGreaterThan(0)
  clearInterval(timer)
  delays.sort((a, b) => a - b)
  expect(delays.length).toBeGreaterThan(50)
  expect(delays[Math.floor(delays.length * 0.99)]).toBeLessThan(20)
  model.dispose()
  optimizer.dispose()
}, 60_000)
