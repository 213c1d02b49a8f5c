// A training step on the meta device has exactly the bytes and FLOPs of the same step on the CPU.
import type { GPTConfig } from '../../lib/models/gpt'
import { getDevice } from '../../lib/tensor/device'
import { hostRandom } from '../../lib/tensor/random'
import type { TrainerOptions } from '../../lib/train/trainer'
import { collectGarbage } from '../support/garbage'
import { tinyTrainer, tokenBatch } from '../support/tiny_gpt'

interface Configuration {
  config: GPTConfig
  rows: number
  options: Pick<TrainerOptions, 'precision' | 'accumulate' | 'clip'>
}

/** 20 configurations drawn from all choices of the GPT and the trainer. */
function configurations(): Configuration[] {
  const random = hostRandom({ seed: 11, offset: 0 })
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random.uniform() * list.length)]
  return Array.from({ length: 20 }, () => {
    const heads = pick([1, 2, 4])
    const positions = pick(['learned', 'rotary', 'alibi', 'none'] as const)
    return {
      rows: pick([1, 3, 4]),
      config: {
        vocab: pick([13, 31, 300]),
        context: pick([5, 16, 40]),
        layers: pick([1, 2, 3]),
        width: heads * pick([6, 8, 16]),
        heads,
        kvHeads: pick([1, heads]),
        norm: pick(['layer_norm', 'rms_norm'] as const),
        activation: pick(['gelu', 'gelu_exact', 'relu', 'silu', 'swiglu'] as const),
        positions,
        tiedHead: pick([true, false]),
        bias: pick([true, false]),
        dropout: pick([0, 0.1]),
        window: pick([0, 7]),
        checkpointing: pick([false, true]),
      },
      options: {
        precision: pick(['f32', 'bf16', 'f16'] as const),
        accumulate: pick([1, 2]),
        clip: pick([0, 1]),
      },
    }
  })
}

beforeAll(collectGarbage)

async function measure(deviceName: string, { config, rows, options }: Configuration) {
  const device = getDevice(deviceName)
  const before = (await device.synchronize()).liveBytes
  const { trainer, model, optimizer } = tinyTrainer({
    config,
    modelDevice: deviceName,
    ...options,
    steps: 3,
    data: { batch: (i) => tokenBatch(i, rows, config.context, config.vocab) },
  })
  const steps = []
  for await (const { flops, peakBytes, liveBytes } of trainer.train()) {
    steps.push({ flops, peak: peakBytes - before, live: liveBytes - before })
  }
  model.dispose()
  optimizer.dispose()
  expect((await device.synchronize()).liveBytes).toBe(before)
  return steps
}

test.each(configurations().map((c, i) => [i + 1, c] as const))('configuration %i', async (_, configuration) => {
  expect(await measure('meta', configuration)).toEqual(await measure('cpu', configuration))
})
