// Progressive stacking as a technique: when it doubles, exact resume on either side of a doubling, and that on M2 it beats
// training from scratch with the same number of layer-steps.
import { finalLoss, heldOutLoss, markovModel, markovTrainer, train } from '../support/markov'
import { resumedRun, shortRun, withTechnique } from '../support/depth'
import { doublingStep, progressiveStacking } from '../../lib/techniques/progressive_stacking'

test('doublings are evenly spread until `at`', () => {
  expect([1, 2].map((k) => doublingStep(k, 2, 0.3, 400))).toEqual([60, 120])
})

test('the model starts shallow and ends whole', async () => {
  const { trainer, model } = withTechnique(progressiveStacking.create({ doublings: 2, at: 0.5 }), 4, 8)
  expect(model.blocks).toHaveLength(1)
  const layers: number[] = []
  for await (const { loss } of trainer.train()) {
    layers.push(model.blocks.length)
    expect(Number.isFinite(loss)).toBe(true)
  }
  expect(layers[0]).toBe(1)
  expect(model.blocks).toHaveLength(4)
  expect(model.config.layers).toBe(4)
  model.dispose()
})

test.each(['stack', 'identity'])('%s: stopped before, between and after doublings, it resumes exactly', async (how) => {
  const make = () => progressiveStacking.create({ doublings: 2, at: 0.5, how })
  const whole = await shortRun(make(), 4, 8)
  for (const stop of [1, 3, 6]) expect(await resumedRun(make, 4, 8, stop)).toEqual(whole)
})

test('layers that cannot be halved, and models that do not grow, are refused', () => {
  expect(() => withTechnique(progressiveStacking.create({ doublings: 2 }), 6)).toThrow('6 layers cannot double 2 times')
  expect(() => progressiveStacking.create().adapt!({} as never)).toThrow(/gpt and llama/)
})

if (process.env.LEANFORMER_LONG_TESTS === '1') {
  // Minutes of training. Published: 3 layers 1.63 / 1.54, stacked 1.80 / 1.71 (fresh 3.4), then 1.09 / 1.04 against 1.30 / 1.44.
  test('3 layers for 300 steps, stacked to 6 for 150, against 6 layers for 300', async () => {
    const technique = progressiveStacking.create({ doublings: 1, at: 300 / 450 })
    const model = markovModel({ layers: 6 })
    technique.adapt!(model as never)
    const losses = await train(markovTrainer(model, { steps: 450, techniques: [technique] }))
    const scratch = markovModel({ layers: 6 })
    const other = await train(markovTrainer(scratch, { steps: 300 }))
    console.log('stacking on M2: before, after it, at the end, from scratch:', losses[299], losses[300], finalLoss(losses), finalLoss(other))
    expect(losses[300]).toBeLessThan(2.2)
    expect(finalLoss(losses)).toBeLessThan(finalLoss(other))
    expect(await heldOutLoss(model)).toBeLessThan(await heldOutLoss(scratch))
  }, 3_600_000)
}
