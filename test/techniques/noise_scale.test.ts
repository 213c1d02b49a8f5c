// The gradient noise scale: unbiased on synthetic gradients, measured in training, advice, refusal, exact resume.
import { noiseEstimate, noiseScaleEntry } from '../../lib/techniques/noise_scale'
import { hostRandom } from '../../lib/tensor/random'
import { keep } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { expectResume, outcome } from '../support/techniques'
import { tinyTrainer, tokenBatch } from '../support/tiny_gpt'

test('Gaussian gradients of known mean and variance: within 5 % after 20,000 draws, while the mean of ratios is far off', () => {
  const random = hostRandom({ seed: 3, offset: 0 })
  const mean = Array.from({ length: 8 }, () => 0.3 * random.normal())
  const deviation = Array.from({ length: 8 }, (_, i) => 1 + i / 2)
  const truth = deviation.reduce((s, x) => s + x * x, 0) / mean.reduce((s, x) => s + x * x, 0)
  const [b, parts] = [4, 8]
  const sizes = { small: b, large: b * parts }
  let [variance, squaredNorm, ratios] = [0, 0, 0]
  const draws = 20_000
  for (let draw = 0; draw < draws; ++draw) {
    const whole = mean.map(() => 0)
    let small = 0
    for (let part = 0; part < parts; ++part) {
      mean.forEach((m, i) => {
        const g = m + (deviation[i] / Math.sqrt(b)) * random.normal()
        small += g * g
        whole[i] += g / parts
      })
    }
    const one = noiseEstimate(sizes, { small: small / parts, large: whole.reduce((s, x) => s + x * x, 0) })
    variance += one.variance
    squaredNorm += one.squaredNorm
    ratios += one.variance / one.squaredNorm / draws
  }
  expect(Math.abs(variance / squaredNorm / truth - 1)).toBeLessThan(0.05)
  expect(Math.abs(ratios / truth - 1)).toBeGreaterThan(0.3)
})

// Rows that differ at random, so that there is noise.
const noisy = { batch: (index: number) => {
  const batch = tokenBatch(index)
  const random = hostRandom({ seed: 1, offset: index + 1 })
  return { ...batch, inputs: batch.inputs.map((x) => (random.uniform() < 0.5 ? x : Math.floor(random.uniform() * 31))) }
} }

test('a run reports it, with advice; its losses are those of the run without it up to the order of sums', async () => {
  const technique = noiseScaleEntry.create({ every: 1 })
  const options = { steps: 12, accumulate: 4, data: noisy }
  const { trainer, model } = tinyTrainer({ ...options, techniques: [technique] })
  const losses: number[] = []
  for await (const { loss } of trainer.train()) losses.push(loss)
  const [line] = await trainer.summary()
  expect(line).toMatch(/^noise scale: (\d+ tokens \([\d.]+ windows\) from 12 measurements; |not resolved)/)
  const plain = await outcome([], options)
  losses.forEach((loss, i) => expect(Math.abs(loss / plain.losses[i] - 1)).toBeLessThan(1e-4))
  model.dispose()
})

test.each([[10, 'more than twice that'], [1e9, 'save steps almost in proportion']] as const)('a noise scale of about %d tokens against 256 a step: %s', async (variance, advice) => {
  const technique = noiseScaleEntry.create({ every: 1 })
  const { trainer, model } = tinyTrainer({ steps: 1, accumulate: 4, techniques: [technique] })
  // As if it had been measured often: one more measurement moves the averages by a hundredth.
  const mean = (value: number) => keep(tensor([value]))
  technique.load!({ data: { count: 1e6 }, tensors: new Map([['variance', mean(variance)], ['squaredNorm', mean(1)]]) })
  for await (const { loss } of trainer.train()) expect(loss).toBeGreaterThan(0)
  expect(await trainer.summary()).toEqual([expect.stringContaining(advice)])
  model.dispose()
})

test('resumes bit for bit', () => expectResume(() => [noiseScaleEntry.create({ every: 2 })], { accumulate: 2, data: noisy }))

test('a single micro-batch is refused', async () => {
  const { trainer, model } = tinyTrainer({ steps: 1, techniques: [noiseScaleEntry.create()] })
  await expect(trainer.train().next()).rejects.toMatchObject({ code: 'ERR_OPTION', hint: 'give --accumulate 2 or more' })
  model.dispose()
})
