// ReZero: at the start any depth is the identity bit for bit, only the gates have a gradient, and 24 layers train without
// normalisation and without warm-up.
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { rezeroEntry } from '../../lib/init/rezero'
import { skipInitEntry } from '../../lib/init/skip_init'
import { mulScalar } from '../../lib/ops/elementwise'
import { embedding } from '../../lib/ops/embedding'
import { linear } from '../../lib/ops/linear'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { Markov, markovModel } from '../support/markov'

const initializers = { rezero: rezeroEntry.create(), skip_init: skipInitEntry.create() }

test.each([['rezero', 1], ['rezero', 64], ['skip_init', 1], ['skip_init', 64]] as const)(
  '%s with %i layers: logits are those of embedding and head, bit for bit',
  async (name, layers) => {
    const model = markovModel({ layers }, initializers[name])
    const ids = tensor(new Markov().batch(0).inputs, [16, 32])
    const [deep, none] = scope(() =>
      noGrad(() => {
        const x = embedding(model.tokenEmbedding.weight.value, ids, { positionTable: model.positionEmbedding!.weight.value })
        return [model.logits(ids), linear(mulScalar(x, Math.sqrt(64)), model.head!.weight.value)]
      }),
    )
    expect(await deep.data()).toEqual(await none.data())
    model.dispose()
  },
)

test.each(['rezero', 'skip_init'] as const)('%s: gradients of all matrices are exactly 0 at first, those of all gates are not', async (name) => {
  const model = markovModel({ layers: 3 }, initializers[name])
  const { inputs, targets } = new Markov().batch(0)
  scope(() => backward(model.loss(tensor(inputs, [16, 32]), tensor(targets, [16, 32]))))
  let gates = 0
  for (const [path, parameter] of model.namedParameters()) {
    if (!path.startsWith('blocks.')) continue
    const grad = await parameter.grad!.toFloat64()
    const gate = /gate[12]?$/.test(path)
    gates += gate ? 1 : 0
    expect([path, grad.every((x) => x === 0)]).toEqual([path, !gate])
  }
  expect(gates).toBe(name === 'rezero' ? 3 : 6)
  model.dispose()
})
