// Update in backward: bit for bit the run without it and without clipping; the gradients are never all there at once.
import { backward } from '../../lib/autograd/backward'
import { GPT } from '../../lib/models/gpt'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import { checkpointing } from '../../lib/techniques/checkpointing'
import { full } from '../../lib/ops/creation'
import { stochasticRounding } from '../../lib/techniques/stochastic_rounding'
import type { Technique } from '../../lib/techniques/technique'
import { updateInBackward } from '../../lib/techniques/update_in_backward'
import { getDevice, listDevices } from '../../lib/tensor/device'
import { seed } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import type { Trainer, TrainerOptions } from '../../lib/train/trainer'
import { differences } from '../support/catalog'
import { tinyConfig, tinyTrainer, tokenBatch } from '../support/tiny_gpt'

async function course(trainer: Trainer) {
  const metrics = []
  for await (const step of trainer.train()) metrics.push(step)
  return { losses: metrics.map(({ loss }) => loss), norms: metrics.map(({ gradNorm }) => gradNorm), end: await trainer.state() }
}

const cases: [string, Partial<TrainerOptions> & { dropout?: number; tied?: boolean }, () => Technique[]][] = [
  ['f32', {}, () => []],
  ['untied, with dropout and accumulation', { dropout: 0.1, tied: false, accumulate: 3 }, () => []],
  ['bf16', { precision: 'bf16' }, () => []],
  ['bf16 without masters', { precision: 'bf16' }, () => [stochasticRounding.create()]],
  ['with layers run again', { dropout: 0.1 }, () => [checkpointing.create({ policy: 'sqrt' })]],
  ['with the cheap operators run again', {}, () => [checkpointing.create({ policy: 'selective' })]],
  ['with layers run again within a budget', {}, () => [checkpointing.create({ policy: 'optimal', budget: withinBytes(640_000) })]],
]
// Of what is there already: also what earlier tests of this process left.
const withinBytes = (bytes: number) => String(bytes + Math.max(...listDevices().map((device) => device.program().liveBytes)))
test.each(cases)('the bits of the run without it: %s', async (_, { dropout = 0, tied = true, ...options }, others) => {
  const run = (techniques: Technique[]) => course(tinyTrainer({ steps: 5, clip: 0, config: { dropout, tiedHead: tied }, ...options, techniques }).trainer)
  const plain = await run(others())
  const own = await run([...others(), updateInBackward.create()])
  expect(own.losses).toEqual(plain.losses)
  expect(differences(own.end.tensors, plain.end.tensors)).toEqual([])
  for (const [i, norm] of own.norms.entries()) expect(Math.abs(norm / plain.norms[i] - 1)).toBeLessThan(1e-5)
})

test('on its own: each parameter is complete once, the tied table last', async () => {
  seed(1)
  const model = new GPT(tinyConfig)
  const optimizer = new AdamW(decayGroups(model.namedParameters(), 0.1))
  const names = new Map([...model.namedParameters()].map(([name, parameter]) => [parameter.tensor, name]))
  const order: string[] = []
  const { inputs, targets, batch, context } = tokenBatch(0)
  scope(() => {
    const loss = model.loss(tensor(inputs, [batch, context]), tensor(targets, [batch, context]))
    const update = optimizer.stepByParameter(1e-3)
    backward(loss, null, {
      complete(leaf: Tensor) {
        order.push(names.get(leaf)!)
        update(leaf)
        expect(leaf.grad).toBeNull()
      },
    })
  })
  await model.parameters()[0].tensor.device.synchronize()
  expect([...order].sort()).toEqual([...names.values()].sort())
  // The head's table is the embedding's, too: its gradient is complete only where the model begins.
  expect(order.slice(-2).sort()).toEqual(['position_embedding.weight', 'token_embedding.weight'])
  expect(optimizer.steps).toBe(1)
})

// Twelve wide layers and few tokens: the gradients are most of what a step adds.
test('its peak has the gradients of a layer, not of the model', async () => {
  const config = { layers: 12, width: 64, heads: 2, context: 4 }
  const peak = async (techniques: Technique[]) => {
    const { trainer, model } = tinyTrainer({ steps: 3, clip: 0, config, techniques, data: { batch: (index) => tokenBatch(index, 1, 4) }, device: 'meta', modelDevice: 'meta' })
    const device = getDevice('meta')
    const before = device.program(true).liveBytes
    const bytes = model.parameters().reduce((sum, { tensor: { size } }) => sum + 4 * size, 0)
    for await (const _ of trainer.train());
    const own = device.program(true).peakBytes - before
    model.dispose()
    return { own, bytes }
  }
  const plain = await peak([])
  const { own, bytes } = await peak([updateInBackward.create()])
  expect(plain.own - own).toBeGreaterThan(0.85 * bytes)
})

test('a gradient that is not finite ends the run, and the error says that other parameters were changed', async () => {
  const { trainer, model } = tinyTrainer({ steps: 3, clip: 0, techniques: [updateInBackward.create()] })
  const before = trainer.device.stats().liveBlocks
  const first = model.blocks[0].namedParameters().values().next().value!
  scope(() => first.set(full(first.shape, Infinity)))
  await expect(course(trainer)).rejects.toMatchObject({ code: 'ERR_NON_FINITE', hint: expect.stringContaining('go on from a checkpoint') })
  await trainer.device.synchronize()
  // No gradient and no norm is left; the optimiser has made its two states of each parameter.
  expect(trainer.device.stats().liveBlocks - before).toBeLessThanOrEqual(2 * model.parameters().length)
})

test('clipping and f16 are refused', async () => {
  expect(() => tinyTrainer({ techniques: [updateInBackward.create()] })).toThrow(expect.objectContaining({ code: 'ERR_OPTION', hint: expect.stringContaining('--clip 0') }))
  const { trainer } = tinyTrainer({ precision: 'f16', clip: 0, techniques: [updateInBackward.create()] })
  await expect(course(trainer)).rejects.toMatchObject({ code: 'ERR_OPTION' })
})
