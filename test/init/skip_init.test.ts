// SkipInit: with gates of 1 / sqrt(branches) the variance grows by at most e, whatever the depth. Identity and gradients at
// the start are tested with ReZero's.
import { noGrad } from '../../lib/autograd/tape'
import { skipInitEntry } from '../../lib/init/skip_init'
import { xavierEntry } from '../../lib/init/xavier'
import { add, mulScalar } from '../../lib/ops/elementwise'
import { linear } from '../../lib/ops/linear'
import { randn } from '../../lib/ops/random'
import { seed } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { markovModel } from '../support/markov'
import { deviation } from '../support/statistics'

/** Final over initial variance of x + a W x through all branches, with W that keeps the variance. */
async function growth(branches: number, gate: number): Promise<number> {
  seed(4)
  const width = 128
  const [first, last] = scope(() =>
    noGrad(() => {
      const first = randn([512, width])
      let x = first
      for (let i = 0; i < branches; ++i) {
        x = scope(() => add(x, mulScalar(linear(x, randn([width, width])), gate / Math.sqrt(width))))
      }
      return [first, x]
    }),
  )
  return ((await deviation(last)) / (await deviation(first))) ** 2
}

test.each([4, 64, 256])('%i layers: the variance becomes (1 + 1/(2L))^(2L) times as large', async (layers) => {
  const seen = await growth(2 * layers, 1 / Math.sqrt(2 * layers))
  expect(Math.abs(seen / (1 + 1 / (2 * layers)) ** (2 * layers) - 1)).toBeLessThan(0.05)
  // e bounds the expectation; one draw of matrices is up to 2.7 % off (2.583, 2.720 and 2.789).
  expect(seen).toBeLessThan(2.72 * 1.05)
})

test('without the gates it doubles with each branch', async () => {
  const seen = await growth(8, 1)
  expect(seen / 2 ** 8).toBeGreaterThan(0.8)
  expect(seen / 2 ** 8).toBeLessThan(1.25)
})

test('start=depth sets every gate to 1 / sqrt(branches), and the rest is Xavier', async () => {
  const model = markovModel({ layers: 8 }, skipInitEntry.create({ start: 'depth' }))
  for (const { gate1, gate2, gate } of model.blocks) {
    expect(gate).toBeNull()
    expect([await gate1!.tensor.item(), await gate2!.tensor.item()]).toEqual([0.25, 0.25])
  }
  const plain = markovModel({ layers: 8, norm: 'none' }, xavierEntry.create())
  expect(await model.blocks[7].mlp.up.weight.tensor.data()).toEqual(await plain.blocks[7].mlp.up.weight.tensor.data())
  model.dispose()
  plain.dispose()
})
