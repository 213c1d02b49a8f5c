// LookSAM: the remembered part stands across the gradient, every step measured is SAM, the cost, exact resume.
import { acrossGradient, lookSamEntry, reuseAcross } from '../../lib/techniques/looksam'
import { samEntry } from '../../lib/techniques/sam'
import { tensor } from '../../lib/tensor/tensor'
import { expectResume, outcome } from '../support/techniques'
import { tinyTrainer } from '../support/tiny_gpt'

test('the part across and its reuse', async () => {
  const f64 = (values: number[]) => tensor(values, null, { dtype: 'f64' })
  const plain = [f64([3, 0]), f64([4])]
  const across = acrossGradient([f64([4, 2]), f64([7])], plain)
  // (4, 2, 7) less its share 40 / 25 of (3, 0, 4).
  const values = (await Promise.all(across.map((x) => x.toFloat64()))).flatMap((x) => Array.from(x))
  ;[-0.8, 2, 0.6].forEach((x, i) => expect(values[i]).toBeCloseTo(x, 12))
  const used = (await Promise.all(reuseAcross(plain, across, 0.5).map((x) => x.toFloat64()))).flatMap((x) => Array.from(x))
  const factor = (0.5 * 5) / Math.hypot(-0.8, 2, 0.6)
  ;[3 - 0.8 * factor, 2 * factor, 4 + 0.6 * factor].forEach((x, i) => expect(used[i]).toBeCloseTo(x, 10))
})

test('measured at every step it is SAM bit for bit', async () => {
  const options = { steps: 4, config: { dropout: 0.1 } }
  expect(await outcome([lookSamEntry.create({ every: 1 })], options)).toEqual(await outcome([samEntry.create()], options))
})

test('the loss falls, and steps between cost one pass', async () => {
  const flops: number[] = []
  const { trainer, model } = tinyTrainer({ steps: 40, techniques: [lookSamEntry.create()] })
  const losses: number[] = []
  for await (const metrics of trainer.train()) {
    flops.push(metrics.flops)
    losses.push(metrics.loss)
  }
  expect(losses[39]).toBeLessThan(losses[0] - 1)
  expect(flops[10] / flops[11]).toBeGreaterThan(1.7)
  model.dispose()
})

test('resumes bit for bit', () => expectResume(() => [lookSamEntry.create({ every: 3 })], { config: { dropout: 0.1 } }, [2, 4]))
