// Initialisers: their moments, and the orthonormality of orthogonal().
import { gpt2Residual } from '../../lib/init/gpt2'
import type { Initializer } from '../../lib/init/initializer'
import { kaimingNormal, kaimingUniform } from '../../lib/init/kaiming'
import { normal } from '../../lib/init/normal'
import { orthogonal } from '../../lib/init/orthogonal'
import { uniform } from '../../lib/init/uniform'
import { xavierNormal, xavierUniform } from '../../lib/init/xavier'
import { seed } from '../../lib/tensor/random'

const shape = [300, 200]

async function moments(init: Initializer) {
  seed(9)
  using value = init(shape)
  const data = await value.toFloat64()
  const mean = data.reduce((a, b) => a + b, 0) / data.length
  const deviation = Math.sqrt(data.reduce((a, b) => a + (b - mean) ** 2, 0) / data.length)
  return { mean, deviation, low: Math.min(...data), high: Math.max(...data) }
}

test.each([
  ['normal', normal(0.5), 0.5],
  ['uniform', uniform(-1, 1), 1 / Math.sqrt(3)],
  ['xavierNormal', xavierNormal(), Math.sqrt(2 / 500)],
  ['xavierUniform', xavierUniform(), Math.sqrt(2 / 500)],
  ['kaimingNormal', kaimingNormal(), Math.sqrt(2 / 200)],
  ['kaimingUniform', kaimingUniform(), Math.sqrt(2 / 200)],
  ['gpt2Residual', gpt2Residual(8), 0.02 / 4],
])('%s has its mean and deviation', async (_, init, deviation) => {
  const seen = await moments(init)
  expect(Math.abs(seen.mean)).toBeLessThan(0.02 * deviation)
  expect(Math.abs(seen.deviation / deviation - 1)).toBeLessThan(0.01)
})

test('uniform numbers stay in their range', async () => {
  const { low, high } = await moments(uniform(2, 3))
  expect([low >= 2, high < 3]).toEqual([true, true])
})

test.each([[[20, 50]], [[50, 20]], [[16, 4, 2, 2]]])('orthogonal %j', async (dims) => {
  using value = orthogonal(2)(dims, { dtype: 'f64' })
  const data = await value.toFloat64()
  const rows = dims[0]
  const columns = data.length / rows
  const wide = rows <= columns
  const [count, length] = wide ? [rows, columns] : [columns, rows]
  const at = (i: number, k: number) => (wide ? data[i * columns + k] : data[k * columns + i])
  for (let i = 0; i < count; ++i) {
    for (let j = 0; j <= i; ++j) {
      let dot = 0
      for (let k = 0; k < length; ++k) dot += at(i, k) * at(j, k)
      expect(dot).toBeCloseTo(i === j ? 4 : 0, 12)
    }
  }
})

test('the same seed gives the same numbers, whatever the device of the test before', async () => {
  seed(1)
  using a = normal()([10])
  seed(1)
  using b = normal()([10])
  expect(await a.data()).toEqual(await b.data())
})
