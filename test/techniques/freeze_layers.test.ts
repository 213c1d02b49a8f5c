// Layer freezing: what is frozen keeps its bits, the rest trains, the backward pass costs less, off is off, exact resume.
import { freezeLayersTechnique } from '../../lib/techniques/freeze_layers'
import { resumedRun, shortRun, withTechnique } from '../support/depth'
import { type GPT } from '../../lib/models/gpt'

async function bits(model: GPT): Promise<Map<string, Float64Array>> {
  return new Map(await Promise.all([...model.namedParameters()].map(async ([name, { tensor }]) => [name, await tensor.toFloat64()] as const)))
}

test('frozen layers keep their bits, others train, and a step costs less', async () => {
  const { trainer, model } = withTechnique(freezeLayersTechnique.create({ layers: 2, from: 0.5 }), 4, 8)
  let before: Map<string, Float64Array> | undefined
  const flops: number[] = []
  const reading: Promise<unknown>[] = []
  for await (const metrics of trainer.train()) {
    flops.push(metrics.flops)
    // The fifth step (from 0) is the first that is frozen; one step is enqueued ahead.
    if (metrics.step === 5) reading.push(bits(model).then((now) => (before = now)))
  }
  await Promise.all(reading)
  const after = await bits(model)
  for (const [name, values] of after) {
    const frozen = /^(blocks\.[01]\.|position_embedding)/.test(name)
    expect([name, Buffer.compare(Buffer.from(values.buffer), Buffer.from(before!.get(name)!.buffer)) === 0]).toEqual([name, frozen])
  }
  expect(flops[7]).toBeLessThan(0.95 * flops[0])
  model.dispose()
})

test('layers=0 is the run without it, bit for bit; otherwise it resumes exactly', async () => {
  expect(await shortRun(freezeLayersTechnique.create({ layers: 0 }))).toEqual(await shortRun(null))
  const make = () => freezeLayersTechnique.create({ layers: 3, from: 0.3, gradually: true })
  expect(await resumedRun(make, 4, 8, 4)).toEqual(await shortRun(make(), 4, 8))
})
