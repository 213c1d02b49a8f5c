// Schedule-free AdamW: published trace of y, the average x, training that beats Adam on M2, resume, refusals.
import { ScheduleFreeAdamW } from '../../lib/optim/schedule_free'
import { decayGroups } from '../../lib/optim/optimizer'
import { constant } from '../../lib/optim/schedule'
import { Parameter } from '../../lib/nn/parameter'
import { keep } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { markovModel, markovTrainer, train } from '../support/markov'
import { tinyTrainer, trainAll } from '../support/tiny_gpt'
import { expectContract, expectTrace, follow } from '../support/optimizers'

test('the published trace of y with weight decay 0.1', async () => {
  expectTrace(await follow((parameters) => new ScheduleFreeAdamW([{ parameters, weightDecay: 0.1 }])), [
    [0.89000001, -1.880000005],
    [0.811329531, -1.9392196729],
    [0.8451625539, -1.9553123301],
  ], 1e-10)
})

test.each([0, 0.9])('with beta1 %d and a constant rate, x is the mean of all z', async (beta1) => {
  const parameter = new Parameter(tensor([1, -2], null, { dtype: 'f64' }))
  const optimizer = new ScheduleFreeAdamW([{ parameters: new Map([['p', parameter]]) }], { beta1 })
  const sums = [0, 0]
  for (let t = 1; t <= 20; ++t) {
    parameter.tensor.grad = keep(tensor([Math.sin(t), Math.cos(3 * t)], null, { dtype: 'f64' }))
    optimizer.step(0.1)
    const z = await (optimizer.state().tensors.get('z.p')!).toFloat64()
    const x = await optimizer.evaluationWeights()!.get('p')!.toFloat64()
    for (const i of [0, 1]) {
      sums[i] += z[i]
      expect(Math.abs(x[i] - sums[i] / t)).toBeLessThan(1e-12)
    }
  }
  optimizer.dispose()
  parameter.dispose()
})

test('M2, 4 layers, lr 3e-3, 40 steps of warm-up: the loss at x is below 0.95 after 400 steps', async () => {
  const model = markovModel()
  const optimizer = new ScheduleFreeAdamW(decayGroups(model.namedParameters(), 0), { beta2: 0.98 })
  const trainer = markovTrainer(model, { steps: 400, optimizer, schedule: constant({ lr: 3e-3, warmup: 40 }) })
  await train(trainer)
  const before = await model.parameters()[0].tensor.toFloat32()
  const { loss } = await trainer.evaluate()
  expect(loss).toBeLessThan(0.95)
  // Evaluation leaves y as it was, bit for bit.
  expect(await model.parameters()[0].tensor.toFloat32()).toEqual(before)
  optimizer.dispose()
  model.dispose()
}, 120_000)

test('checkpoints publish x, and a resume goes on from y, bit for bit', async () => {
  const make = () => {
    const made = tinyTrainer({ steps: 8 })
    const { model } = made
    const optimizer = new ScheduleFreeAdamW(decayGroups(model.namedParameters(), 0.1), { power: 1 })
    return { ...tinyTrainer({ steps: 8, model, optimizer }), model, optimizer }
  }
  const whole = make()
  const losses = await trainAll(whole.trainer)
  const first = make()
  const abort = new AbortController()
  const begun: number[] = []
  for await (const { step, loss } of first.trainer.train({ signal: abort.signal })) {
    begun.push(loss)
    if (step === 3) abort.abort()
  }
  const saved = await first.trainer.state()
  const name = 'blocks.0.mlp.up.weight'
  const bytes = (key: string) => Buffer.from(saved.tensors[key].data).toString('base64')
  expect(bytes(`model.${name}`)).not.toBe(bytes(`training.${name}`))
  const second = make()
  second.trainer.load({ tensors: saved.tensors, state: JSON.parse(JSON.stringify(saved.state)) })
  expect([...begun, ...(await trainAll(second.trainer))]).toEqual(losses)
  for (const { model, optimizer } of [whole, first, second]) {
    model.dispose()
    optimizer.dispose()
  }
})

test('skips, clips, copies and resumes exactly', async () => {
  await expectContract((groups) => new ScheduleFreeAdamW(groups))
  await expectContract((groups) => new ScheduleFreeAdamW(groups, { beta1: 0 }))
})

test('bad options are refused', () => {
  expect(() => new ScheduleFreeAdamW([], { power: -1 })).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
})
