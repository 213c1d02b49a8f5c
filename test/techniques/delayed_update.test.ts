// Delayed update: exactly an AdamW that applies each gradient one step late; before its first step, exactly the plain run.
import { backward } from '../../lib/autograd/backward'
import { clipGradNorm } from '../../lib/ops/clip'
import { GPT } from '../../lib/models/gpt'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import { cosine } from '../../lib/optim/schedule'
import { delayedUpdate } from '../../lib/techniques/delayed_update'
import { seed } from '../../lib/tensor/random'
import { keep, scope } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { tinyConfig, tinyTrainer, tokenBatch, trainAll } from '../support/tiny_gpt'

const steps = 8

/** Losses of AdamW with gradients from `from` on applied one step late. */
async function simulated(from: number): Promise<number[]> {
  seed(1)
  const model = new GPT(tinyConfig)
  const optimizer = new AdamW(decayGroups(model.namedParameters(), 0.1))
  const schedule = cosine({ lr: 3e-3, warmup: 2, steps })
  const losses: number[] = []
  let late: (Tensor | null)[] | null = null
  for (let t = 0; t < steps; ++t) {
    const { inputs, targets, batch, context, tokens } = tokenBatch(t)
    const ids = (values: Int32Array) => tensor(values, [batch, context])
    const read = scope(() => {
      const loss = model.loss(ids(inputs), ids(targets), {}, { scale: 1 / tokens })
      backward(loss)
      return { value: loss.item() }
    })
    losses.push(await read.value)
    const fresh = model.parameters().map(({ grad }) => grad && keep(grad.alias()))
    if (t >= from) {
      for (const parameter of model.parameters()) parameter.zeroGrad()
      for (const [i, parameter] of model.parameters().entries()) parameter.tensor.grad = late?.[i] ?? null
    }
    if (t < from || late) {
      scope(() => optimizer.step(schedule(t), clipGradNorm(model.parameters().flatMap(({ grad }) => grad ?? []), { maxNorm: 1 }).clip))
    }
    for (const parameter of model.parameters()) parameter.zeroGrad()
    late = t >= from ? fresh : null
  }
  return losses
}

test.each([0, 3])('from step %i on', async (from) => {
  const { trainer } = tinyTrainer({ steps, techniques: [delayedUpdate.create({ from })] })
  expect(await trainAll(trainer)).toEqual(await simulated(from))
})

test('before its first step, and off, it is the plain run', async () => {
  const plain = await trainAll(tinyTrainer({ steps }).trainer)
  const late = await trainAll(tinyTrainer({ steps, techniques: [delayedUpdate.create({})] }).trainer)
  expect(late).toEqual(plain)
})

test('f16 is refused', async () => {
  const { trainer } = tinyTrainer({ precision: 'f16', techniques: [delayedUpdate.create({ from: 0 })] })
  await expect(trainAll(trainer)).rejects.toMatchObject({ code: 'ERR_OPTION' })
})

test('a run that goes on from a checkpoint has the bits of one that never stopped', async () => {
  const make = () => tinyTrainer({ steps, techniques: [delayedUpdate.create({ from: 2 })] })
  const whole = make()
  const losses = await trainAll(whole.trainer)
  const first = make()
  const stop = new AbortController()
  for await (const { step } of first.trainer.train({ signal: stop.signal })) if (step === 4) stop.abort()
  const rest = make()
  rest.trainer.load(await first.trainer.state())
  const { step } = rest.trainer
  expect(await trainAll(rest.trainer)).toEqual(losses.slice(step))
})
