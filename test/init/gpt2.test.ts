// GPT-2's start and small init: deviations, and a residual stream that does not grow with the depth.
import { noGrad } from '../../lib/autograd/tape'
import { gpt2Entry } from '../../lib/init/gpt2'
import { smallInitEntry } from '../../lib/init/small_init'
import { fill } from '../../lib/init/model_initializer'
import { normal } from '../../lib/init/normal'
import { Generator } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { Markov, markovModel } from '../support/markov'
import { deviation } from '../support/statistics'

const near = (seen: number, wanted: number, within: number) => expect(Math.abs(seen / wanted - 1)).toBeLessThan(within)

test('matrices that write to the residual stream have 0.02 / sqrt(2 L)', async () => {
  const layers = 6
  const model = markovModel({ layers, width: 128 }, gpt2Entry.create({ positions: 0.01 }))
  for (const { attention, mlp } of model.blocks.slice(0, 3)) {
    near(await deviation(attention.out.weight.tensor), 0.02 / Math.sqrt(2 * layers), 0.02)
    near(await deviation(mlp.down.weight.tensor), 0.02 / Math.sqrt(2 * layers), 0.02)
    near(await deviation(mlp.up.weight.tensor), 0.02, 0.02)
  }
  near(await deviation(model.positionEmbedding!.weight.tensor), 0.01, 0.05)
  model.dispose()
})

test('small init: sqrt(2 / (5 d)), and 2 / (L sqrt(d)) for the last matrices', async () => {
  const [layers, width] = [6, 128]
  const model = markovModel({ layers, width }, smallInitEntry.create())
  const { attention, mlp } = model.blocks[2]
  near(await deviation(attention.qkv.weight.tensor), Math.sqrt(2 / (5 * width)), 0.02)
  near(await deviation(mlp.up.weight.tensor), Math.sqrt(2 / (5 * width)), 0.02)
  near(await deviation(attention.out.weight.tensor), 2 / (layers * Math.sqrt(width)), 0.02)
  near(await deviation(mlp.down.weight.tensor), 2 / (layers * Math.sqrt(width)), 0.02)
  model.dispose()
})

/** Mean squares of the residual stream at the end of a pre-norm model, and of what its blocks have added to it. */
async function stream(layers: number, scaled: boolean): Promise<{ end: number; added: number }> {
  const model = markovModel({ layers }, gpt2Entry.create())
  if (!scaled) {
    const generator = new Generator(3)
    for (const { attention, mlp } of model.blocks) for (const { weight } of [attention.out, mlp.down]) fill(weight, normal(0.02), generator)
  }
  const ids = tensor(new Markov(1, 4).batch(0).inputs, [4, 32])
  const [first, last] = scope(() =>
    noGrad(() => {
      // Without the final norm: the stream itself.
      const { norm } = model
      model.norm = null
      const out = model.call(ids)
      const { blocks } = model
      model.blocks = []
      const start = model.call(ids)
      Object.assign(model, { norm, blocks })
      return [start, out]
    }),
  )
  const [a, b] = [await first.toFloat64(), await last.toFloat64()]
  model.dispose()
  const square = (f: (i: number) => number) => b.reduce((sum, _, i) => sum + f(i) ** 2, 0) / b.length
  return { end: square((i) => b[i]), added: square((i) => b[i] - a[i]) }
}

test('the variance of the residual stream is the same at 12 and at 96 layers; without the factor what is added grows 8 times', async () => {
  const [shallow, deep] = [await stream(12, true), await stream(96, true)]
  near(deep.end / shallow.end, 1, 0.2)
  const ratio = (await stream(96, false)).added / (await stream(12, false)).added
  expect(ratio).toBeGreaterThan(6)
  expect(ratio).toBeLessThan(12)
})
