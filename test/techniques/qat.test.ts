// Quantisation-aware training: what is exported is what was trained, bit for bit; losses on M2; schedule, resume, files.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { GPT } from '../../lib/models/gpt'
import { FakeQuantised } from '../../lib/nn/fake_quantised'
import { linearTargets } from '../../lib/nn/linear_parts'
import { noGrad } from '../../lib/autograd/tape'
import { mean } from '../../lib/ops/reductions'
import { square, sub } from '../../lib/ops/elementwise'
import { lsq } from '../../lib/nn/fake_quantize'
import { addQat, exportQat, qat } from '../../lib/techniques/qat'
import { quantise } from '../../lib/techniques/quantise'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { loadCompressed, saveCompressed } from '../../lib/train/compressed'
import { expectResume, outcome } from '../support/techniques'
import { heldOutLoss, markovModel, markovTrainer, train } from '../support/markov'
import { tinyConfig, tinyTrainer, trainAll } from '../support/tiny_gpt'

const grids = (model: GPT) => linearTargets(model).flatMap(({ layer }) => (layer.adapter instanceof FakeQuantised ? [layer.adapter] : []))

async function logits(model: GPT) {
  const ids = tensor(Int32Array.from({ length: 32 }, (_, i) => (i * 7) % 31), [2, 16])
  return scope(() => noGrad(() => model.eval().call(ids))).toFloat32()
}

const settings = [
  { bits: 8 }, { bits: 8, weights: 'tensor', inputs: 'tensor' }, { bits: 4, input_bits: 8, inputs: 'tensor' },
  { bits: 4, input_bits: 0 }, { bits: 8, method: 'lsq' }, { bits: 4, input_bits: 4, method: 'lsq', weights: 'tensor' }, { bits: 3, input_bits: 6 },
  { bits: 8, method: 'lsq_plus' }, { bits: 4, input_bits: 4, method: 'lsq_plus', weights: 'tensor', follow: 'error' }, { bits: 4, method: 'lsq', follow: 'error' },
  { bits: 8, method: 'pact' }, { bits: 4, input_bits: 4, method: 'pact', weights: 'tensor' },
] as const

test.each(settings)('%p: the export is what was trained, bit for bit, and so is its file', async (given) => {
  for (const precision of ['f32', 'bf16'] as const) {
    const technique = qat.create(given)
    const { trainer, model } = tinyTrainer({ steps: 6, precision, techniques: [technique], adapt: (gpt) => technique.adapt!(gpt) })
    const losses = await trainAll(trainer)
    expect(losses[5]).toBeLessThan(losses[0])
    for (const { weightStep, inputStep } of grids(model)) {
      for (const step of [weightStep, inputStep]) if (step) expect(Math.min(...(await step.factor.tensor.toFloat32()))).toBeGreaterThan(0.9)
    }
    const trained = await logits(model)
    exportQat(model)
    expect(await logits(model)).toEqual(trained)
    const folder = await mkdtemp(path.join(tmpdir(), 'qat-'))
    try {
      await saveCompressed(folder, model)
      const again = await loadCompressed(folder, (config: never) => new GPT(config))
      again.setComputeDType(precision)
      expect(await logits(again)).toEqual(trained)
      again.dispose()
    } finally {
      await rm(folder, { recursive: true })
    }
    model.dispose()
  }
}, 60_000)

// A run of 300 steps, then 100 more at a fifth of the rate; the plain run gets them too.
test('M2: int8 within 1 % of f32; int4 better than rounding after training', async () => {
  const start = markovModel({ layers: 2 })
  await train(markovTrainer(start, { steps: 300 }))
  const state = start.state()
  const run = async (given?: Parameters<typeof qat.create>[0]) => {
    const model = markovModel({ layers: 2 })
    model.loadState(state)
    const technique = given && qat.create(given)
    technique?.adapt!(model)
    await train(markovTrainer(model, { steps: 100, lr: 2e-4, techniques: technique ? [technique] : [] }))
    if (technique) exportQat(model)
    return model
  }
  const plain = await run()
  const loss = await heldOutLoss(plain)
  expect(Math.abs((await heldOutLoss(await run({ bits: 8, input_bits: 8 }))) / loss - 1)).toBeLessThan(0.01)
  const trained = await heldOutLoss(await run({ bits: 4, input_bits: 0 }))
  quantise(plain, { bits: 4 })
  const after = await heldOutLoss(plain)
  expect(trained).toBeLessThan(after)
  expect(after / loss - 1).toBeGreaterThan(0.005)
}, 120_000)

test('PACT: unsigned after ReLU; the penalty is added to the loss and draws clips in', async () => {
  const run = async (penalty: number) => {
    const model = markovModel({ layers: 1 })
    const technique = qat.create({ method: 'pact', input_bits: 4, penalty })
    technique.adapt!(model)
    const losses = await train(markovTrainer(model, { steps: 30, techniques: [technique] }))
    const clips = await Promise.all(grids(model).map(async ({ clip }) => (await clip!.toFloat64())[0]))
    // Once a step, whatever its micro-batches and the scale of its loss.
    technique.step!(() => {}, { step: 20, lossScale: 64, batches: [1, 2, 3, 4] } as never)
    const added = await scope(() => technique.loss!(tensor(Float32Array.of(0), []), 20)).item()
    expect(added).toBeCloseTo(penalty * 16 * clips.reduce((sum, clip) => sum + clip * clip, 0), 3)
    const positive = grids(model).map(({ options }) => options.positive ?? false)
    model.dispose()
    return { losses, clips, positive }
  }
  const [none, weak, strong] = [await run(0), await run(0.005), await run(0.01)]
  expect(none.positive).toEqual([false, false, false, true])
  expect((strong.losses[0] - none.losses[0]) / (weak.losses[0] - none.losses[0])).toBeCloseTo(2, 2)
  strong.clips.forEach((clip, i) => expect(clip).toBeLessThan(none.clips[i]))
})

test.each(['lsq', 'lsq_plus'] as const)('%s: steps that follow the error reach a smaller one on the weights than at first', async (method) => {
  const model = markovModel({ layers: 1 })
  const technique = qat.create({ method, bits: 3, input_bits: 0, follow: 'error' })
  technique.adapt!(model)
  const error = async () => {
    const { weightStep, weightGrid } = grids(model)[0]
    const w = model.blocks[0].attention.qkv.weight.tensor
    const gap = scope(() => noGrad(() => mean(square(sub(lsq(w, weightStep!.call(), weightGrid), w)))))
    return gap.item()
  }
  const before = await error()
  // The weights themselves stay.
  model.blocks[0].attention.qkv.weight.trainable = false
  await train(markovTrainer(model, { steps: 100, lr: 3e-3, techniques: [technique] }))
  expect(await error()).toBeLessThan(0.98 * before)
  model.dispose()
})

test('grids are measured before the start and stay after freeze', async () => {
  const technique = qat.create({ inputs: 'tensor', start: 0.5, freeze: 0.75 })
  const { trainer, model } = tinyTrainer({ steps: 8, techniques: [technique], adapt: (gpt) => technique.adapt!(gpt) })
  const { losses: plain } = await outcome([], { steps: 8 })
  const ranges: number[][] = []
  const losses: number[] = []
  for await (const { loss, step } of trainer.train()) {
    losses.push(loss)
    if (step >= 5) ranges.push([...(await grids(model)[0].range!.tensor.toFloat32())])
  }
  expect(losses.slice(0, 4)).toEqual(plain.slice(0, 4))
  expect(losses[4]).not.toBe(plain[4])
  const [least, most, weight] = ranges.at(-1)!
  expect(weight).toBeCloseTo(1 - 0.99 ** 6, 5)
  expect(least).toBeLessThan(0)
  expect(most).toBeGreaterThan(0)
  model.dispose()
})

test('bits 0 is the run without it, bit for bit; a resume is exact; what does not fit is refused', async () => {
  expect(await outcome([qat.create({ bits: 0 })], { steps: 4 })).toEqual(await outcome([], { steps: 4 }))
  const trained = [{ bits: 4, method: 'lsq' }, { bits: 4, method: 'lsq_plus', follow: 'error' }, { bits: 8, method: 'pact' }] as const
  for (const given of [{ bits: 8 }, { bits: 8, inputs: 'tensor' }, ...trained] as const) {
    for (const precision of ['f32', 'bf16', 'f16'] as const) {
      let technique = qat.create(given)
      await expectResume(() => [(technique = qat.create(given))], { steps: 5, precision, accumulate: 2, adapt: (gpt) => technique.adapt!(gpt) })
    }
  }
  expect(() => qat.create({ bits: 1 })).toThrow(expect.objectContaining({ code: 'ERR_OPTION', message: expect.stringContaining('bits is 1') }))
  expect(() => qat.create({ follow: 'error', method: 'pact' })).toThrow(expect.objectContaining({ code: 'ERR_OPTION', message: expect.stringContaining('pact') }))
  expect(() => exportQat(new GPT(tinyConfig))).toThrow(expect.objectContaining({ code: 'ERR_ARGUMENT' }))
  const twice = new GPT(tinyConfig)
  addQat(twice, { bits: 8, inputBits: 8, method: 'minmax', weights: 'channel', inputs: 'token' })
  expect(() => addQat(twice, { bits: 8, inputBits: 8, method: 'minmax', weights: 'channel', inputs: 'token' })).toThrow(expect.objectContaining({ code: 'ERR_OPTION', message: expect.stringContaining('blocks.0.attention.qkv') }))
}, 60_000)
