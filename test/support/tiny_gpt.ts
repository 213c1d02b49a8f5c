// A small GPT with a trainer on made-up tokens, for tests of the training loop.
import { GPT, type GPTConfig } from '../../lib/models/gpt'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import { cosine } from '../../lib/optim/schedule'
import { seed } from '../../lib/tensor/random'
import type { Batch } from '../../lib/techniques/technique'
import { Trainer, type TrainerOptions } from '../../lib/train/trainer'

export const tinyConfig: GPTConfig = { vocab: 31, context: 16, layers: 2, width: 32, heads: 4 }

/** Tokens that follow each other by a rule, so that the loss falls. Depends on the index alone. */
export function tokenBatch(index: number, rows = 4, context = tinyConfig.context, vocab = tinyConfig.vocab): Batch {
  const size = rows * context
  const at = (i: number) => ((index * 7 + Math.floor(i / context)) * 5 + (i % context) * 3) % vocab
  return {
    inputs: Int32Array.from({ length: size }, (_, i) => at(i)),
    targets: Int32Array.from({ length: size }, (_, i) => (at(i) + 3) % vocab),
    batch: rows,
    context,
    tokens: size,
  }
}

export function tinyTrainer(
  options: Partial<TrainerOptions> & { config?: Partial<GPTConfig>; modelDevice?: string; adapt?: (model: GPT) => void } = {},
): { trainer: Trainer; model: GPT; optimizer: AdamW } {
  const { config, modelDevice, adapt, ...rest } = options
  seed(1)
  const model = new GPT({ ...tinyConfig, ...config }, { device: modelDevice })
  adapt?.(model)
  const optimizer = new AdamW(decayGroups(model.namedParameters(), 0.1))
  const steps = rest.steps ?? 10
  const trainer = new Trainer({
    model,
    optimizer,
    schedule: cosine({ lr: 3e-3, warmup: 2, steps }),
    data: { batch: (index) => tokenBatch(index) },
    ...rest,
    steps,
  })
  return { trainer, model, optimizer }
}

/** Runs to the end; losses by step. */
export async function trainAll(trainer: Trainer): Promise<number[]> {
  const losses: number[] = []
  for await (const metrics of trainer.train()) losses.push(metrics.loss)
  return losses
}
