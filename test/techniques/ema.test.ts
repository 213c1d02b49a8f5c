// EMA: a constant stays itself at every t, the average is the textbook one, evaluation does not touch the training weights,
// skipped updates do not count.
import { Parameter } from '../../lib/nn/parameter'
import { emaEntry, emaRate, startAverages, updateAverages } from '../../lib/techniques/ema'
import { tensor } from '../../lib/tensor/tensor'
import { expectResume, outcome } from '../support/techniques'
import { tinyTrainer, tokenBatch } from '../support/tiny_gpt'

const f64 = (values: number[]) => tensor(values, null, { dtype: 'f64' })

test('a constant parameter is its own average at every t, exactly', async () => {
  const parameters = new Map([['p', new Parameter(tensor([0.1, -3e7, 1e-20]))]])
  const averages = startAverages(parameters)
  for (let t = 1; t <= 50; ++t) {
    updateAverages(averages, parameters, emaRate(t, { decay: 0.999 }))
    expect(await averages.get('p')!.toFloat32()).toEqual(await parameters.get('p')!.tensor.toFloat32())
  }
})

test('it is the exponential average with its bias taken out, and the ramp starts at 2 / 11', async () => {
  const parameter = new Parameter(f64([0]))
  const parameters = new Map([['p', parameter]])
  const averages = startAverages(parameters)
  let plain = 0
  for (let t = 1; t <= 30; ++t) {
    parameter.set(f64([Math.sin(t)]))
    plain = 0.9 * plain + 0.1 * Math.sin(t)
    updateAverages(averages, parameters, emaRate(t, { decay: 0.9 }))
    expect(Math.abs((await averages.get('p')!.item()) - plain / (1 - 0.9 ** t))).toBeLessThan(1e-13)
  }
  expect(1 - emaRate(1, { decay: 0.999, ramp: true })).toBeCloseTo(2 / 11, 14)
  expect(1 - emaRate(1e6, { decay: 0.999, ramp: true })).toBeCloseTo(0.999, 14)
})

test('an update that is skipped leaves the average alone', async () => {
  const parameters = new Map([['p', new Parameter(tensor([1, 2]))]])
  const averages = startAverages(parameters)
  updateAverages(averages, parameters, 0.5, tensor([0.25, 0]))
  updateAverages(averages, parameters, 0.5, tensor([0.25, 1]))
  expect(Array.from(await averages.get('p')!.toFloat32())).toEqual([0.5, 1])
})

test('evaluation is of the average; the training weights come back bit for bit, and the run is that without it', async () => {
  const evalData = { length: 1, batch: () => tokenBatch(99) }
  const plain = await outcome([], { steps: 6 })
  const { trainer, model } = tinyTrainer({ steps: 6, evalData, evalEvery: 2, techniques: [emaEntry.create({ decay: 0.5 })] })
  const losses: number[] = []
  for await (const metrics of trainer.train()) losses.push(metrics.loss)
  expect(losses).toEqual(plain.losses)
  const saved = await trainer.state()
  for (const [name, { tensor: master }] of model.namedParameters()) {
    const data = await master.data()
    expect(Buffer.from(data.buffer).toString('base64')).toBe(plain.weights[name])
    expect(Buffer.from(saved.tensors[`training.${name}`].data).equals(Buffer.from(data.buffer))).toBe(true)
    // What is published is the average, which is also the technique's own state.
    expect(Buffer.from(saved.tensors[`model.${name}`].data).equals(Buffer.from(saved.tensors[`technique.ema.${name}`].data))).toBe(true)
  }
  const { loss } = await trainer.evaluate()
  model.loadState(new Map(Object.entries(saved.tensors).filter(([name]) => name.startsWith('model.')).map(([name, value]) => [name.slice(6), tensor(new Float32Array(value.data.slice().buffer), value.shape)])))
  const average = tinyTrainer({ steps: 6, evalData, model })
  expect((await average.trainer.evaluate()).loss).toBe(loss)
  model.dispose()
})

test('resumes bit for bit', () => expectResume(() => [emaEntry.create({ decay: 0.9, start: 1 })], { precision: 'bf16' }))

test('two averages at once are refused', async () => {
  const techniques = [emaEntry.create(), { name: 'other', evaluationWeights: () => new Map() }]
  const { trainer, model } = tinyTrainer({ steps: 1, techniques })
  for await (const metrics of trainer.train()) expect(metrics.loss).toBeGreaterThan(0)
  await expect(trainer.state()).rejects.toMatchObject({ code: 'ERR_OPTION' })
  model.dispose()
})
