// Checkpointing policies: the numbers are those of a run without, bit for bit; the bytes are those forecast.
import type { GPT, GPTConfig } from '../../lib/models/gpt'
import { getDevice } from '../../lib/tensor/device'
import { hostRandom } from '../../lib/tensor/random'
import { stochasticDepth } from '../../lib/techniques/stochastic_depth'
import { Checkpointing, checkpointing, type ChainForecast } from '../../lib/techniques/checkpointing'
import { freezeLayers } from '../../lib/techniques/freeze_layers'
import type { Technique } from '../../lib/techniques/technique'
import type { TrainerOptions } from '../../lib/train/trainer'
import { digest } from '../support/digest'
import { collectGarbage } from '../support/garbage'
import { tinyTrainer, tokenBatch } from '../support/tiny_gpt'

beforeAll(collectGarbage)
afterEach(collectGarbage) // what is refused leaves a model

interface Case {
  config: Partial<GPTConfig> & { context: number; vocab: number; layers: number }
  rows: number
  options?: Pick<TrainerOptions, 'precision' | 'accumulate' | 'clip'>
}

/** Losses, FLOPs and peak bytes (above what was live before the model) of each step. */
async function run(deviceName: string, { config, rows, options }: Case, techniques: Technique[] = [], steps = 4, adapt?: (model: GPT) => void) {
  const device = getDevice(deviceName)
  const before = (await device.synchronize()).liveBytes
  const begins = device.program().liveBytes // what budgets count from: also what failed in an earlier test
  const { trainer, model, optimizer } = tinyTrainer({
    config, modelDevice: deviceName, adapt, ...options, steps, techniques, data: { batch: (i) => tokenBatch(i, rows, config.context, config.vocab) },
  })
  try {
    const losses: number[] = []
    const norms: number[] = []
    const flops: number[] = []
    let peak = 0
    for await (const metrics of trainer.train()) {
      losses.push(metrics.loss)
      norms.push(metrics.gradNorm)
      flops.push(metrics.flops)
      peak = metrics.peakBytes - before
    }
    const weights = deviceName === 'meta' ? '' : digest(await Promise.all(model.parameters().map((p) => p.tensor.data())))
    return { losses, norms, weights, flops, peak, begins }
  } finally {
    model.dispose()
    optimizer.dispose()
    await device.synchronize().catch(() => undefined)
    expect(device.stats().liveBytes).toBe(before)
  }
}

const base: Case = { rows: 4, config: { vocab: 31, context: 16, layers: 9, width: 32, heads: 4, dropout: 0.1 } }

test.each([
  ['none', {}], ['every', { every: 1 }], ['every', { every: 4 }], ['sqrt', {}], ['selective', {}],
] as const)('policy %s %p: losses, norms and weights are bit for bit those without', async (policy, more) => {
  const plain = await run('cpu', base)
  const found = await run('cpu', base, [checkpointing.create({ policy, ...more })])
  expect([found.losses, found.norms, found.weights]).toEqual([plain.losses, plain.norms, plain.weights])
  if (policy === 'none') expect(found.peak).toBe(plain.peak)
  else expect(found.peak).toBeLessThan(plain.peak)
})

/** A technique with its forecast at hand. */
function optimal(budget: number): { technique: Technique; forecasts: () => readonly ChainForecast[] } {
  let running: Checkpointing | null = null
  const technique: Technique = {
    name: 'checkpointing',
    setup: ({ model }) => void (running = new Checkpointing(model, { policy: 'optimal', budget })),
    step(next) {
      running!.beginStep()
      next()
      running!.endStep()
    },
    grads: () => running!.endGradients(),
  }
  return { technique, forecasts: () => running!.forecasts() }
}

function randomCase(i: number): Case {
  const random = hostRandom({ seed: 21, offset: i })
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random.uniform() * list.length)]
  const heads = pick([1, 2, 4])
  return {
    rows: pick([2, 4, 6]),
    config: {
      vocab: pick([13, 31, 100]), context: pick([16, 24]), layers: pick([2, 3, 4, 6, 8]), width: heads * pick([4, 6, 8]), heads,
      norm: pick(['layer_norm', 'rms_norm', 'none'] as const), activation: pick(['gelu', 'swiglu', 'relu'] as const),
      positions: pick(['learned', 'rotary', 'alibi'] as const), tiedHead: pick([true, false]), bias: pick([true, false]), dropout: pick([0, 0.1]),
    },
    options: { precision: pick(['f32', 'f32', 'bf16'] as const), accumulate: pick([1, 1, 2]), clip: pick([0, 1]) },
  }
}

// Budgets between a little less than the least there is and what a run without checkpointing needs.
test('without gradients for the first layers nothing of them is computed again', async () => {
  // With a tied head the embeddings train on, and gradients flow through every layer.
  const untied: Case = { ...base, config: { ...base.config, tiedHead: false } }
  const frozen = (model: GPT) => freezeLayers(model as never, 3)
  const plain = await run('cpu', untied, [], 3, frozen)
  const every = () => checkpointing.create({ policy: 'every' })
  const all = (await run('meta', untied, [every()], 3)).flops[2] - (await run('meta', untied, [], 3)).flops[2]
  for (const technique of [every(), optimal(plain.begins + plain.peak - 60_000).technique]) {
    const found = await run('cpu', untied, [technique], 3, frozen)
    expect([found.losses, found.norms, found.weights]).toEqual([plain.losses, plain.norms, plain.weights])
    expect(found.peak).toBeLessThanOrEqual(plain.peak - 60_000)
    if (technique.summary) expect((found.flops[2] - plain.flops[2]) / all).toBeCloseTo(6 / 9, 5)
  }
})

test('50 pairs of a model and a budget: within it, at the FLOPs forecast, with the same losses; or refused with the least', async () => {
  const seen = { refused: 0, planned: 0, again: 0 }
  for (let i = 0; i < 50; ++i) {
    const choice = randomCase(i)
    const plain = await run('cpu', choice, [], 3)
    const refusal = (budget: number) => run('meta', choice, [optimal(budget).technique], 2).then(() => null, (error: Error) => error)
    const problem = await refusal(1)
    expect(problem).toMatchObject({ code: 'ERR_OPTION', message: expect.stringMatching(/the least is \d+ bytes$/) })
    const least = Number(/least is (\d+)/.exec(problem!.message)![1]) - getDevice('meta').program().liveBytes
    const budget = Math.floor(least + (plain.peak - least) * (1.1 * hostRandom({ seed: 22, offset: i }).uniform() - 0.1))
    const { technique, forecasts } = optimal(plain.begins + budget)
    if (budget < least) {
      ++seen.refused
      // That there is nothing in between: the least is reached exactly, and one byte less is refused.
      await expect(run('cpu', choice, [technique], 3)).rejects.toThrow(`the least is ${plain.begins + least} bytes`)
      expect((await run('cpu', choice, [optimal(plain.begins + least).technique], 3)).peak).toBe(least)
      expect((await refusal(getDevice('meta').program().liveBytes + least - 1))!.message).toMatch(/too small/)
      continue
    }
    ++seen.planned
    const found = await run('cpu', choice, [technique], 3)
    expect(found.peak).toBeLessThanOrEqual(budget)
    expect([found.losses, found.norms, found.weights]).toEqual([plain.losses, plain.norms, plain.weights])
    const again = found.flops[2] - plain.flops[2]
    const recomputedFlops = forecasts().reduce((sum, forecast) => sum + forecast.recomputedFlops, 0)
    expect(forecasts()).toHaveLength(choice.options?.accumulate ?? 1)
    if (recomputedFlops > 0) ++seen.again
    expect(Math.abs(again - recomputedFlops)).toBeLessThanOrEqual(0.02 * recomputedFlops)
  }
  expect(seen.planned).toBeGreaterThan(30)
  expect(seen.refused).toBeGreaterThan(1)
  expect(seen.again).toBeGreaterThan(20)
}, 120_000)


test.each([
  [{ policy: 'optimal' }, 'checkpointing: policy is optimal and budget is ""'],
  [{ policy: 'sqrt', budget: '1MiB' }, 'checkpointing: policy is sqrt and budget is "1MiB"'],
  [{ policy: 'optimal', budget: 'much' }, 'checkpointing: budget is "much"'],
  [{ every: 0 }, 'checkpointing: every is 0'],
] as const)('%p is refused', (settings, message) => {
  expect(() => checkpointing.create(settings)).toThrow(expect.objectContaining({ code: 'ERR_OPTION', message }))
})

test('a plan cannot be made for layers that are dropped at random', () => {
  const technique = checkpointing.create({ policy: 'optimal', budget: '1GiB' })
  const depth = stochasticDepth.create({})
  expect(() => tinyTrainer({ techniques: [depth, technique], adapt: (model) => depth.adapt!(model as never) })).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
})
