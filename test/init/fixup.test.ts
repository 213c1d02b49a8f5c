// Fixup: the network starts as the identity with a loss of exactly ln V, its scales follow the number of branches, and 24
// layers train without normalisation and without warm-up.
import { noGrad } from '../../lib/autograd/tape'
import { fixupEntry, fixupScale } from '../../lib/init/fixup'
import { scope } from '../../lib/tensor/scope'
import { randn } from '../../lib/ops/random'
import { heldOutLoss, Markov, markovModel } from '../support/markov'
import { deviation } from '../support/statistics'

test('factors for branches of 2, 3 and 4 matrices', () => {
  expect([2, 3, 4].map((m) => fixupScale(16, m))).toEqual([16 ** (-1 / 2), 16 ** (-1 / 4), 16 ** (-1 / 6)])
})

test('a loss of exactly ln V, and every block an exact identity', async () => {
  const model = markovModel({ layers: 5 }, fixupEntry.create())
  expect(Math.abs((await heldOutLoss(model, new Markov(), 1)) - Math.fround(Math.log(16)))).toBeLessThan(1e-6)
  for (const block of model.blocks) {
    const x = randn([2, 7, 64])
    const y = scope(() => noGrad(() => block.call(x)))
    expect(await y.data()).toEqual(await x.data())
  }
  model.dispose()
})

test.each([['relu', 2], ['swiglu', 3]] as const)('deviations of the matrices, %s', async (activation, matrices) => {
  const layers = 8
  const model = markovModel({ layers, width: 128, activation }, fixupEntry.create())
  const { attention, mlp } = model.blocks[3]
  const xavier = (out: number, width: number) => Math.sqrt(2 / (out + width))
  const seen = await Promise.all([attention.qkv, attention.out, mlp.up, mlp.down].map(({ weight }) => deviation(weight.tensor)))
  expect(seen[0] / (xavier(128, 128) * (2 * layers) ** (-1 / 6))).toBeCloseTo(1, 1)
  expect(seen[1]).toBe(0)
  expect(seen[2] / (xavier(512, 128) * (2 * layers) ** (-1 / (2 * matrices - 2)))).toBeCloseTo(1, 1)
  expect(seen[3]).toBe(0)
  expect(model.blocks[0].gate1!.scales.lr).toBe(0.1)
  expect([mlp.upShift!.scales.lr, attention.qkv.bias]).toEqual([0.1, null])
  model.dispose()
})
