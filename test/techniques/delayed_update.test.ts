// Delayed update: exactly an AdamW that applies each gradient one step late; before its first step, exactly the plain run.
import { backward } from '../../lib/autograd/backward'
import { clipGradNorm } from '../../lib/ops/clip'
import { GPT } from '../../lib/models/gpt'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import { cosine } from '../../lib/optim/schedule'
import { checkpointing } from '../../lib/techniques/checkpointing'
import { delayedUpdate } from '../../lib/techniques/delayed_update'
import { layerDrop } from '../../lib/techniques/layer_drop'
import { offload } from '../../lib/techniques/offload'
import type { Technique } from '../../lib/techniques/technique'
import { updateInBackward } from '../../lib/techniques/update_in_backward'
import { seed } from '../../lib/tensor/random'
import { Pager } from '../../lib/tensor/pager'
import { keep, scope } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import type { TrainerOptions } from '../../lib/train/trainer'
import { differences } from '../support/catalog'
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

// Dropped layers have a late gradient and no new one.
const cases: [string, Partial<TrainerOptions> & { dropout?: number }, () => Technique[]][] = [
  ['f32', {}, () => []],
  ['bf16, accumulation, dropout', { precision: 'bf16', accumulate: 2, dropout: 0.1 }, () => []],
  ['no clipping', { clip: 0 }, () => []],
  ['dropped layers', {}, () => [layerDrop.create({ p: 0.5 })]],
  ['layers run again, state in a file', { dropout: 0.1 }, () => [checkpointing.create({ policy: 'sqrt' }), offload.create({ piece: '40000' })]],
]
test.each(cases)('applied in the backward pass: the same bits, %s', async (_, { dropout = 0, ...options }, others) => {
  const run = async (techniques: Technique[]) => {
    const { trainer } = tinyTrainer({ steps, config: { dropout }, ...options, techniques: [delayedUpdate.create({ from: 2 }), ...others(), ...techniques] })
    const metrics = []
    for await (const { loss, gradNorm } of trainer.train()) metrics.push([loss, gradNorm])
    return { metrics, end: await trainer.state() }
  }
  const [after, within] = [await run([]), await run([updateInBackward.create()])]
  expect(within.metrics).toEqual(after.metrics)
  expect(differences(within.end.tensors, after.end.tensors)).toEqual([])
})

// 40,000 bytes of parameters are more than a layer and less than the model.
test('in the backward pass, offloaded state is asked for before its turn and goes right after it', async () => {
  const { trainer, optimizer } = tinyTrainer({ steps: 3, techniques: [offload.create({ piece: '40000' }), delayedUpdate.create({ from: 0 }), updateInBackward.create()] })
  const events: string[] = []
  const spies = (['prefetch', 'pageOut'] as const).map((what) => {
    const real = Pager.prototype[what]
    return jest.spyOn(Pager.prototype, what).mockImplementation(function (this: Pager, moved: Tensor) {
      for (const [name, state] of optimizer.state().tensors) if (state === moved) events.push(`${what} ${name}`)
      real.call(this, moved)
    })
  })
  await trainAll(trainer)
  spies.forEach((spy) => spy.mockRestore())
  const outs = events.flatMap((event, i) => (event.startsWith('pageOut m.') ? [i] : []))
  const count = outs.length / 2
  expect(count).toBe([...optimizer.state().tensors.keys()].filter((name) => name.startsWith('m.')).length)
  for (const [i, out] of outs.slice(count).entries()) {
    const asked = events.lastIndexOf(events[out].replace('pageOut', 'prefetch'))
    expect(asked).toBeGreaterThan(outs[count - 1])
    // Before the one before it was updated.
    expect(asked).toBeLessThan(outs[count + i - (i > 0 ? 1 : 0)])
  }
})

test('f16 is refused', async () => {
  const { trainer } = tinyTrainer({ precision: 'f16', techniques: [delayedUpdate.create({ from: 0 })] })
  await expect(trainAll(trainer)).rejects.toMatchObject({ code: 'ERR_OPTION' })
})

test.each([[], [updateInBackward]])('a run that goes on from a checkpoint has the bits of one that never stopped', async (...others) => {
  const make = () => tinyTrainer({ steps, techniques: [delayedUpdate.create({ from: 2 }), ...others.map((entry) => entry.create())] })
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
