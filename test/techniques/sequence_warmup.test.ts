// Sequence-length warm-up: lengths, cut batches, the tokens of each step, off is off, exact resume.
import { cutBatch, sequenceWarmup, warmupLength } from '../../lib/techniques/sequence_warmup'
import { resumedRun, shortRun, withTechnique } from '../support/depth'
import { tokenBatch } from '../support/tiny_gpt'

test('lengths', () => {
  const at = (step: number) => warmupLength(step, { start: 8, whole: 64, steps: 100, multiple: 8 })
  expect([0, 14, 15, 50, 99, 100, 1000].map(at)).toEqual([8, 8, 16, 32, 56, 64, 64])
  expect(warmupLength(0, { start: 8, whole: 64, steps: 0, multiple: 8 })).toBe(64)
  expect(warmupLength(0, { start: 100, whole: 64, steps: 10, multiple: 8 })).toBe(64)
})

test('rows keep their beginnings, and targets that do not count stay out', () => {
  const batch = tokenBatch(0, 2)
  batch.targets[1] = -1
  batch.segments = Int32Array.from(batch.inputs)
  const cut = cutBatch(batch, 5)
  expect(cut).toMatchObject({ context: 5, batch: 2, tokens: 9 })
  expect(Array.from(cut.inputs)).toEqual([...batch.inputs.subarray(0, 5), ...batch.inputs.subarray(16, 21)])
  expect(cut.segments).toEqual(cut.inputs)
  expect(cutBatch(batch, 16)).toBe(batch)
})

test('steps count the tokens that they saw', async () => {
  const { trainer, model } = withTechnique(sequenceWarmup.create({ start: 4, share: 0.5, multiple: 4 }), 2, 8)
  const tokens: number[] = []
  for await (const metrics of trainer.train()) tokens.push(metrics.tokens)
  expect(tokens).toEqual([16, 16, 32, 48, 64, 64, 64, 64].map((n, i) => (i < 4 ? [16, 16, 32, 48][i] : n)))
  model.dispose()
})

test('share=0 is the run without it, bit for bit; otherwise it resumes exactly', async () => {
  expect(await shortRun(sequenceWarmup.create({ share: 0 }))).toEqual(await shortRun(null))
  const make = () => sequenceWarmup.create({ start: 4, share: 1, multiple: 4 })
  expect(await resumedRun(make, 2, 6, 3)).toEqual(await shortRun(make(), 2))
})
