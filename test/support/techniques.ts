// What every technique must do in a training run: resume bit for bit, and at its neutral setting be the run without it.
import type { Optimizer } from '../../lib/optim/optimizer'
import type { GPT } from '../../lib/models/gpt'
import type { Technique } from '../../lib/techniques/technique'
import type { TrainerOptions } from '../../lib/train/trainer'
import { tinyTrainer } from './tiny_gpt'

type Options = Parameters<typeof tinyTrainer>[0] & { makeOptimizer?: (model: GPT) => Optimizer }

function build(techniques: readonly Technique[], { makeOptimizer, ...options }: Options) {
  const made = tinyTrainer({ ...options, ...(makeOptimizer ? {} : { techniques }) })
  if (!makeOptimizer) return made
  const optimizer = makeOptimizer(made.model)
  return { ...tinyTrainer({ ...options, model: made.model, optimizer, techniques } as Partial<TrainerOptions>), model: made.model, optimizer }
}

async function bits(model: GPT): Promise<Record<string, string>> {
  const entries = [...model.namedParameters()].map(async ([name, { tensor }]) => {
    const data = await tensor.data()
    return [name, Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64')] as const
  })
  return Object.fromEntries(await Promise.all(entries))
}

/** Losses and weights of a run with these techniques. */
export async function outcome(techniques: readonly Technique[], options: Options = {}) {
  const { trainer, model, optimizer } = build(techniques, options)
  const losses: number[] = []
  for await (const { loss } of trainer.train()) losses.push(loss)
  const weights = await bits(model)
  model.dispose()
  optimizer.dispose()
  return { losses, weights }
}

/** A run that is saved and resumed after every step of `stops` ends with the bits of the run without a stop. */
export async function expectResume(make: () => Technique[], options: Options = {}, stops = [3]): Promise<void> {
  const whole = await outcome(make(), { steps: 8, ...options })
  for (const stop of stops) {
    const first = build(make(), { steps: 8, ...options })
    const abort = new AbortController()
    const losses: number[] = []
    for await (const { step, loss } of first.trainer.train({ signal: abort.signal })) {
      losses.push(loss)
      if (step === stop) abort.abort()
    }
    const saved = await first.trainer.state()
    const second = build(make(), { steps: 8, ...options })
    second.trainer.load({ tensors: saved.tensors, state: JSON.parse(JSON.stringify(saved.state)) })
    for await (const { loss } of second.trainer.train()) losses.push(loss)
    expect(losses).toEqual(whole.losses)
    expect(await bits(second.model)).toEqual(whole.weights)
    for (const { model, optimizer } of [first, second]) {
      model.dispose()
      optimizer.dispose()
    }
  }
}
