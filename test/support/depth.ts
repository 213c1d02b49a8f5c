// Small models for techniques of depth.
import { type GPT } from '../../lib/models/gpt'
import type { Technique } from '../../lib/techniques/technique'
import { noGrad } from '../../lib/autograd/tape'
import { getDevice } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { tinyTrainer, tokenBatch, trainAll } from './tiny_gpt'

/** Logits of a model on a fixed batch. */
export async function logitsOf(model: GPT, rows = 2): Promise<Float64Array> {
  const { inputs, context } = tokenBatch(3, rows)
  const out = scope(() => noGrad(() => model.logits(tensor(inputs, [rows, context]))))
  const values = await out.toFloat64()
  out.dispose()
  return values
}

/** FLOPs of the forward pass of a model in training, over `passes`. */
export async function forwardFlops(model: GPT, passes = 1): Promise<number> {
  const device = getDevice(model.parameters()[0].tensor.device)
  const { inputs, context } = tokenBatch(3, 2)
  const before = (await device.synchronize()).flops
  for (let i = 0; i < passes; ++i) scope(() => noGrad(() => void model.logits(tensor(inputs, [2, context]))))
  return ((await device.synchronize()).flops - before) / passes
}

/** Losses of a short run. */
export async function shortRun(technique: Technique | null, layers = 4, steps = 6): Promise<number[]> {
  const { trainer, model } = withTechnique(technique, layers, steps)
  const losses = await trainAll(trainer)
  model.dispose()
  return losses
}

/** A tiny trainer whose model a technique has adapted. */
export function withTechnique(technique: Technique | null, layers = 4, steps = 6): ReturnType<typeof tinyTrainer> {
  return tinyTrainer({ config: { layers }, steps, techniques: technique ? [technique] : [], adapt: technique?.adapt?.bind(technique) })
}

/** Trains `steps`, stopping after `stop` to save and resume in a fresh trainer; the losses of both parts. */
export async function resumedRun(make: () => Technique, layers: number, steps: number, stop: number): Promise<number[]> {
  const first = withTechnique(make(), layers, steps)
  const abort = new AbortController()
  const losses: number[] = []
  for await (const { loss, step } of first.trainer.train({ signal: abort.signal })) {
    losses.push(loss)
    if (step === stop) abort.abort()
  }
  const saved = await first.trainer.state()
  first.model.dispose()
  const second = withTechnique(make(), layers, steps)
  second.trainer.load({ tensors: saved.tensors, state: JSON.parse(JSON.stringify(saved.state)) })
  losses.push(...(await trainAll(second.trainer)))
  second.model.dispose()
  return losses
}
