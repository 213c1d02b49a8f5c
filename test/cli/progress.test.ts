import { Writable } from 'node:stream'

import { Progress } from '../../lib/cli/progress'
import type { StepMetrics } from '../../lib/train/metrics'

class Screen extends Writable {
  text = ''
  columns = 200
  constructor(readonly isTTY: boolean) {
    super()
  }
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString()
    done()
  }
}

const metrics = (step: number, more: Partial<StepMetrics> = {}): StepMetrics => ({
  step,
  loss: 2.5,
  lr: 1e-3,
  gradNorm: 1,
  tokens: 768,
  tokensPerSecond: 51_200,
  stepMs: 15,
  flops: 1.5e9,
  liveBytes: 1,
  peakBytes: 3 * 2 ** 20,
  ...more,
})

test('a line says what is known', () => {
  const progress = new Progress({ stream: new Screen(false), steps: 2000, peakFlops: 2e11, env: {} })
  expect(progress.line()).toBe('step 0/2000')
  progress.step(metrics(1000, { valLoss: 2.75 }))
  progress.step(metrics(1001, { skipped: true }))
  expect(progress.line()).toBe(
    'step 1001/2000  loss 2.5000  val 2.7500  51.2k tok/s  50% of peak  3.00 MiB  15s left  step skipped',
  )
})

test('without a terminal: a plain line every ten seconds, at evaluations and at the end', async () => {
  const stream = new Screen(false)
  let now = 0
  const progress = new Progress({ stream, steps: 40, env: {}, now: () => now })
  await progress.start()
  for (let step = 1; step <= 40; step++) {
    now += 1000
    progress.step(metrics(step, step === 13 ? { valLoss: 2 } : {}))
  }
  progress.stop()
  expect(stream.text.match(/step \d+/g)).toEqual(['step 10', 'step 13', 'step 23', 'step 33', 'step 40'])
  expect(stream.text).not.toContain('\x1b')
})

test('--json without a terminal is silent', async () => {
  const stream = new Screen(false)
  const progress = new Progress({ stream, steps: 2, json: true, env: {} })
  await progress.start()
  progress.step(metrics(2, { valLoss: 1 }))
  progress.stop()
  expect(stream.text).toBe('')
})

test.each([
  [{}, true],
  [{ NO_COLOR: '1' }, false],
])('on a terminal: one live line, colour unless NO_COLOR (%o)', async (env, colour) => {
  const stream = new Screen(true)
  const progress = new Progress({ stream, steps: 10, env })
  await progress.start()
  progress.step(metrics(5))
  progress.say('a message')
  progress.stop()
  expect(stream.text).toContain('step 5/10  loss 2.5000')
  expect(stream.text).toContain('█'.repeat(10) + '░'.repeat(10))
  expect(stream.text).toContain('a message\n')
  expect(stream.text.includes('\x1b[36m')).toBe(colour)
  expect(stream.text).toContain('\x1b[?25h') // the cursor is back
})
