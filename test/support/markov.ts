// M2, the order-2 Markov source on which techniques are compared: 16 symbols, each pair is followed by one of its two
// successors with equal probability. The loss cannot fall below ln 2 = 0.693; ignoring the context gives ln 16 = 2.77.
// It takes attention to the token before and a feed-forward layer, so networks whose depth fails are caught.
import { noGrad } from '../../lib/autograd/tape'
import { xavierEntry } from '../../lib/init/xavier'
import { GPT, type GPTConfig } from '../../lib/models/gpt'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import { constant } from '../../lib/optim/schedule'
import type { Batch } from '../../lib/techniques/technique'
import { Generator, hostRandom } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { Trainer, type EvaluationSource, type LanguageModel, type TrainerOptions } from '../../lib/train/trainer'

const vocab = 16

/** Rows of M2 by batch index; the same source and the same rows for the same seed. Targets count from position 2 on. */
export class Markov {
  private readonly successors: Int32Array

  constructor(
    private readonly seed = 1,
    private readonly rows = 16,
    private readonly tokens = 32,
  ) {
    const random = hostRandom({ seed, offset: 0 })
    const pick = (below: number) => Math.floor(random.uniform() * below)
    this.successors = new Int32Array(2 * vocab * vocab)
    for (let pair = 0; pair < vocab * vocab; ++pair) {
      const first = pick(vocab)
      this.successors.set([first, (first + 1 + pick(vocab - 1)) % vocab], 2 * pair)
    }
  }

  batch(index: number): Batch {
    const { rows, tokens } = this
    const random = hostRandom({ seed: this.seed, offset: index + 1 })
    const inputs = new Int32Array(rows * tokens)
    const targets = new Int32Array(rows * tokens)
    for (let r = 0; r < rows; ++r) {
      let [a, b] = [Math.floor(random.uniform() * vocab), Math.floor(random.uniform() * vocab)]
      for (let t = 0; t < tokens; ++t) {
        // The pair (a, b) stands at t and t + 1; what follows it is the target of t + 1.
        inputs[r * tokens + t] = a
        targets[r * tokens + t] = t === 0 ? -1 : b
        const next = this.successors[2 * (a * vocab + b) + (random.uniform() < 0.5 ? 0 : 1)]
        a = b
        b = next
      }
    }
    return { inputs, targets, batch: rows, context: tokens, tokens: rows * (tokens - 1) }
  }

  /** Batches that training does not see. */
  heldOut(length = 8): EvaluationSource {
    return { length, batch: (index) => this.batch(1_000_000 + index) }
  }
}

/** The network of the published figures, but for its depth: width 64, 4 heads, ReLU, its own head, embeddings times 8. */
export const markovConfig: GPTConfig = {
  vocab,
  context: 32,
  layers: 4,
  width: 64,
  heads: 4,
  activation: 'relu',
  tiedHead: false,
}

/** A network for M2 with Xavier matrices, unless `init` is another initialiser. */
export function markovModel(config: Partial<GPTConfig> = {}, init = xavierEntry.create(), seed = 1, device?: string): GPT {
  const generator = new Generator(seed)
  const model = new GPT({ ...markovConfig, ...config, ...init.config }, { generator, device })
  init.apply(model, generator)
  return model
}

/** A trainer on M2 with Adam(0.9, 0.98), a constant rate and no clipping. */
export function markovTrainer(
  model: LanguageModel,
  options: Partial<TrainerOptions> & { steps: number; lr?: number; source?: Markov },
): Trainer {
  const { lr = 1e-3, source = new Markov(), ...rest } = options
  return new Trainer({
    model,
    optimizer: new AdamW(decayGroups(model.namedParameters(), 0), { beta2: 0.98 }),
    schedule: constant({ lr }),
    data: source,
    evalData: source.heldOut(),
    clip: Infinity,
    ...rest,
  })
}

/** Losses by step; in `losses` they are there even if training fails. */
export async function train(trainer: Trainer, losses: number[] = []): Promise<number[]> {
  for await (const { loss } of trainer.train()) losses.push(loss)
  return losses
}

/** Mean of the last 20 losses, as the published figures have it. */
export function finalLoss(losses: readonly number[]): number {
  const last = losses.slice(-20)
  return last.reduce((a, b) => a + b, 0) / last.length
}

/** Mean loss of a language model on held-out rows of M2. */
export async function heldOutLoss(model: LanguageModel, source = new Markov(), length = 8): Promise<number> {
  const wasTraining = model.training
  model.eval()
  const data = source.heldOut(length)
  let sum = 0
  for (let i = 0; i < length; ++i) {
    const { inputs, targets, batch, context } = data.batch(i)
    const device = model.parameters()[0].tensor.device
    const ids = (values: Int32Array) => tensor(values, [batch, context], { device })
    const loss = scope(() => noGrad(() => model.loss(ids(inputs), ids(targets), {}, {})))
    sum += await loss.item()
    loss.dispose()
  }
  model.train(wasTraining)
  return sum / length
}
