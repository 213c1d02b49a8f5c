// Random tensors: repeatable, the same on any number of threads and any device, and distributed as they should be.
import { rand, randn } from '../../lib/ops/random'
import { Generator } from '../../lib/tensor/random'
import type { DType } from '../../lib/native/dtype'
import { jestOnly } from '../support/op_case'
import { testDevices, withThreads } from '../support/devices'
import { philox } from '../support/philox'

const device = testDevices()[0]

jestOnly(() => {
  const draw = async (f: typeof rand, seed: number, n = 1000, dtype: DType = 'f32') =>
    f([n], { generator: new Generator(seed), dtype, device }).toFloat64()

  describe.each([['rand', rand], ['randn', randn]] as const)('%s', (_, f) => {
    test('a seed says it all', async () => {
      expect(await draw(f, 5)).toEqual(await draw(f, 5))
      expect(await draw(f, 5)).not.toEqual(await draw(f, 6))
      const generator = new Generator(5)
      expect(await f([1000], { generator, device }).toFloat64()).toEqual(await draw(f, 5))
      expect(await f([1000], { generator, device }).toFloat64()).not.toEqual(await draw(f, 5))
    })

    test('the same numbers on 1 and 2 threads, and at the start of a longer tensor', async () => {
      const two = await withThreads(2, () => draw(f, 1, 100003))
      expect(await withThreads(1, () => draw(f, 1, 100003))).toEqual(two)
      expect((await draw(f, 1, 101)).every((x, i) => x === two[i])).toBe(true)
      expect(await draw(f, 1, 0)).toHaveLength(0)
    })

    test('other formats hold the same numbers, rounded', async () => {
      const wide = await draw(f, 3)
      for (const [dtype, error] of [['f16', 2 ** -10], ['bf16', 2 ** -7], ['f64', 2 ** -20]] as const) {
        const other = await draw(f, 3, 1000, dtype)
        expect(other.every((x, i) => Math.abs(x - wide[i]) <= error * Math.max(1, Math.abs(wide[i])))).toBe(true)
      }
      expect(() => f([1], { dtype: 'i32' })).toThrow(expect.objectContaining({ code: 'ERR_DTYPE' }))
    })
  })

  test('the known answers of the Random123 library', () => {
    const ones = 0xffffffff
    expect(philox([0, 0], [0, 0, 0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8])
    expect(philox([ones, ones], [ones, ones, ones, ones])).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd])
    const pi = philox([0xa4093822, 0x299f31d0], [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344])
    expect(pi).toEqual([0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1])
  })

  test.each([
    [0, 0],
    [0x89abcdef, 3],
    [0x1234 * 2 ** 32 + 0xfedcba98, 5 * 2 ** 32 + 7],
  ])('element e is made of word e %% 4 of block e / 4: seed %d, offset %d', async (seed, offset) => {
    const halves = (x: number) => [x % 2 ** 32, Math.floor(x / 2 ** 32)] as const
    const words = [0, 1, 2].flatMap((block) => philox(halves(seed), [...halves(block), ...halves(offset)]))
    const drawn = (f: typeof rand) => {
      const generator = new Generator()
      generator.restore({ seed, offset })
      return f([10], { generator, dtype: 'f64', device }).toFloat64()
    }
    expect([...(await drawn(rand))]).toEqual(words.slice(0, 10).map((word) => (word >>> 8) * 2 ** -24))
    const normal = await drawn(randn)
    normal.forEach((x, i) => {
      const first = i - (i % 2)
      const radius = Math.sqrt(-2 * Math.log(1 - words[first] * 2 ** -32))
      const angle = 2 * Math.PI * words[first + 1] * 2 ** -32
      expect(x).toBeCloseTo(radius * (i === first ? Math.cos(angle) : Math.sin(angle)), 12)
    })
  })

  // Largest distance between the distribution of a sample and F; beyond 1.95 / sqrt(n) once in a thousand samples.
  function kolmogorov(sample: Float64Array, distribution: (x: number) => number): number {
    const sorted = sample.slice().sort()
    return sorted.reduce((most, x, i) => {
      const f = distribution(x)
      return Math.max(most, f - i / sorted.length, (i + 1) / sorted.length - f)
    }, 0)
  }
  const n = 1 << 17

  test('rand is uniform in [0, 1)', async () => {
    const sample = await draw(rand, 11, n)
    expect(Math.min(...sample.slice(0, 1000))).toBeGreaterThanOrEqual(0)
    expect(sample.every((x) => x >= 0 && x < 1)).toBe(true)
    expect(kolmogorov(sample, (x) => x)).toBeLessThan(1.95 / Math.sqrt(n))
  })

  test('randn is normal, and neighbours are independent', async () => {
    const sample = await draw(randn, 12, n)
    // Abramowitz and Stegun 26.2.17, to 1e-7.
    const density = (x: number) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI)
    const upper = (x: number) => {
      const t = 1 / (1 + 0.2316419 * x)
      const p = ((((1.330274429 * t - 1.821255978) * t + 1.781477937) * t - 0.356563782) * t + 0.31938153) * t
      return density(x) * p
    }
    expect(kolmogorov(sample, (x) => (x < 0 ? upper(-x) : 1 - upper(x)))).toBeLessThan(1.95 / Math.sqrt(n))
    for (const lag of [1, 2, 3, 4]) {
      let sum = 0
      for (let i = lag; i < n; ++i) sum += sample[i] * sample[i - lag]
      expect(Math.abs(sum / n)).toBeLessThan(4 / Math.sqrt(n))
    }
  })
})
