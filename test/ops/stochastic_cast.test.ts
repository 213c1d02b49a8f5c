// stochastic_cast: exactly the rounding that Philox says, the mean of many draws, numbers that need no rounding.
import { cast } from '../../lib/ops/cast'
import { full } from '../../lib/ops/creation'
import { stochasticCast } from '../../lib/ops/stochastic_cast'
import { tensor } from '../../lib/tensor/tensor'
import { host, jestOnly, opCase } from '../support/op_case'
import { philox } from '../support/philox'

const seed = 2 ** 33 + 7
const view = new DataView(new ArrayBuffer(4))
const bitsOf = (x: number) => (view.setFloat32(0, x), view.getUint32(0))
const floatOf = (bits: number) => (view.setUint32(0, bits), view.getFloat32(0))

/** The 16 random bits of element e. */
function noise(offset: number, e: number): number {
  const words = philox([seed >>> 0, Math.floor(seed / 2 ** 32)], [Math.floor(e / 8), 0, offset, 0])
  const word = words[Math.floor(e / 2) % 4]
  return e % 2 ? word >>> 16 : word & 0xffff
}

opCase<{ offset: number }>({
  name: 'stochastic cast',
  ops: ['stochastic_cast'],
  run: ([x], { offset }) => stochasticCast(x, { seed, offset }),
  reference: ([x], { offset }) => host(x.shape, (i) => floatOf(((bitsOf(x.data[i]) + noise(offset, i)) & 0xffff0000) >>> 0)),
  samples: [
    { inputs: [[3, 100]], attrs: { offset: 0 } },
    { inputs: [[1]], attrs: { offset: 5 } },
    { inputs: [[0, 3]], attrs: { offset: 1 } },
    { inputs: [[1031]], attrs: { offset: 1_000_003 } },
  ],
  dtypes: ['f32'],
  outDTypes: 'bf16',
  noGradient: 'optimisers use it on weights',
  bench: [{ inputs: [[1024, 1024]], attrs: { offset: 3 }, dtypes: ['f32'] }],
  errors: [{ what: 'f64', call: () => stochasticCast(tensor([1], null, { dtype: 'f64' }), { seed, offset: 0 }), code: 'ERR_DTYPE', text: ['stochastic_cast', 'f64'] }],
})

jestOnly(() => {
  test('1 + 1/512 is on average 1 + 1/512, to three standard deviations of 1e5 draws; a plain cast makes it 1', async () => {
    const x = full([100_000], 1 + 1 / 512)
    const drawn = await stochasticCast(x, { seed: 3, offset: 0 }).toFloat64()
    expect([...new Set(drawn)].sort()).toEqual([1, 1 + 1 / 128])
    expect(Math.abs(drawn.reduce((a, b) => a + b, 0) / 1e5 - 1.001953125)).toBeLessThan(3.3e-5)
    expect((await cast(x, 'bf16').toFloat64())[0]).toBe(1)
  })

  test('what bf16 holds stays; infinities and NaN stay what they are; other blocks draw otherwise', async () => {
    const x = tensor([0, -0, 1, -1.5, 2 ** -130, Infinity, -Infinity, NaN])
    const same = await stochasticCast(x, { seed: 1, offset: 0 }).toFloat64()
    expect(same).toEqual(await x.toFloat64())
    const y = full([64], Math.PI)
    const draws = await Promise.all([0, 1].map((offset) => stochasticCast(y, { seed: 1, offset }).toFloat64()))
    expect(draws[0]).not.toEqual(draws[1])
  })
})
