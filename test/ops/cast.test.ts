// Conversion between number formats.
import { dtypes, isFloating, newHostArray, type DType } from '../../lib/native/dtype'
import { cast } from '../../lib/ops/cast'
import { numberToBf16, numberToF16 } from '../../lib/tensor/half'
import { tensor } from '../../lib/tensor/tensor'
import { host, integers, jestOnly, opCase, uniform } from '../support/op_case'
import { roundTo } from '../support/tolerance'

const shapes = [[], [0, 3], [2, 33], [71]]

for (const to of dtypes) {
  opCase({
    name: `cast to ${to}`,
    ops: isFloating(to) ? ['cast'] : [],
    run: ([x]) => cast(x, to),
    reference: ([x]) =>
      host(x.shape, (i) => {
        const value = x.data[i]
        if (to === 'bool') return value === 0 ? 0 : 1
        return isFloating(to) ? value : Math.trunc(value)
      }),
    samples: [
      ...shapes.map((shape) => [{ shape, values: uniform(0, 100) }]),
      [{ shape: [3, 21], values: integers(0, 2) }],
      ...(to === 'u8' ? [] : [[{ shape: [3, 21], values: uniform(-100, 100) }]]),
    ],
    dtypes: to === 'u8' ? dtypes.filter((dtype) => isFloating(dtype) || dtype === 'u8') : dtypes.filter((dtype) => dtype !== 'u8'),
    outDTypes: to,
    noGradient: isFloating(to) ? undefined : 'integers have none',
    // The gradient takes the format of the input, wherever it came from.
    gradTolerance: { f32: 2 ** -7, f16: 2 ** -7, bf16: 2 ** -7 },
    bench: isFloating(to) ? [{ inputs: [[1024, 1024]], dtypes: ['f32', 'bf16'] }] : [],
  })
}

jestOnly(() => {
  async function castBits(from: DType, values: ArrayLike<number> | bigint[], to: DType) {
    const data = newHostArray(from, values.length)
    for (let i = 0; i < values.length; ++i) data[i] = values[i]
    return cast(tensor(data, null, { dtype: from }), to).data()
  }

  test('every bf16 and f16 pattern goes to f32 and back', async () => {
    const patterns = Uint16Array.from({ length: 65536 }, (_, i) => i)
    for (const dtype of ['bf16', 'f16'] as const) {
      const x = tensor(patterns, null, { dtype })
      const wide = await cast(x, 'f32').data()
      const back = (await cast(cast(x, 'f32'), dtype).data()) as Uint16Array
      let wrong = 0
      for (let i = 0; i < 65536; ++i) {
        const value = Number(wide[i])
        const expected = dtype === 'bf16' ? numberToBf16(value) : numberToF16(value)
        if (Number.isNaN(value) ? (back[i] & 0x7fff) <= (dtype === 'bf16' ? 0x7f80 : 0x7c00) : back[i] !== i || expected !== i) ++wrong
      }
      expect(wrong).toBe(0)
    }
  })

  test('rounds to nearest, ties to even, once', async () => {
    const numbers = new Float64Array(20000)
    let state = 7
    for (let i = 0; i < numbers.length; ++i) {
      state = (state * 48271) % 2147483647
      numbers[i] = (state / 2147483647 - 0.5) * 2 ** ((state % 40) - 20)
      // Ties, and numbers that are a tie only after rounding to f32.
      if (i % 3 === 1) numbers[i] = roundTo('bf16', numbers[i]) * (1 + 2 ** -9)
      if (i % 3 === 2) numbers[i] = roundTo('bf16', numbers[i]) * (1 + 2 ** -9) * (1 + (i % 2 ? 1 : -1) * 2 ** -40)
    }
    const f32 = (await castBits('f64', numbers, 'f32')) as Float32Array
    expect(f32.every((x, i) => x === Math.fround(numbers[i]))).toBe(true)
    const fromF32 = (await castBits('f32', f32, 'bf16')) as Uint16Array
    expect(fromF32.every((x, i) => x === numberToBf16(f32[i]))).toBe(true)
    const f16FromF32 = (await castBits('f32', f32, 'f16')) as Uint16Array
    expect(f16FromF32.every((x, i) => x === numberToF16(f32[i]))).toBe(true)
    const fromF64 = (await castBits('f64', numbers, 'f16')) as Uint16Array
    expect(fromF64.every((x, i) => x === numberToF16(numbers[i]))).toBe(true)
    // 1 + 2^-8 is a tie between two bf16 numbers; the smallest excess decides.
    const near = [1 + 2 ** -8, 1 + 2 ** -8 + 2 ** -40, 1 + 2 ** -8 - 2 ** -40]
    expect([...(await castBits('f64', near, 'bf16'))]).toEqual([0x3f80, 0x3f81, 0x3f80])
    const wide = [2n ** 62n + 2n ** 54n, 2n ** 62n + 2n ** 54n + 1n, -(2n ** 62n) - 2n ** 54n - 1n]
    expect([...(await castBits('i64', wide, 'bf16'))]).toEqual([0x5e80, 0x5e81, 0xde81])
  })

  test('floating to integer cuts the fraction off and stays in range', async () => {
    const x = [1.9, -1.9, NaN, 1e30, -1e30, Infinity, -Infinity, 127.5, -128.9, 255.5]
    expect([...(await castBits('f32', x, 'i8'))]).toEqual([1, -1, 0, 127, -128, 127, -128, 127, -128, 127])
    expect([...(await castBits('f64', x, 'u8'))]).toEqual([1, 0, 0, 255, 0, 255, 0, 127, 0, 255])
    expect([...(await castBits('f32', x, 'i32')).slice(3, 7)]).toEqual([2 ** 31 - 1, -(2 ** 31), 2 ** 31 - 1, -(2 ** 31)])
    const i64 = await castBits('f64', x, 'i64')
    expect([i64[3], i64[4]]).toEqual([2n ** 63n - 1n, -(2n ** 63n)])
    expect([...(await castBits('f32', [NaN, 0, -0, 0.1], 'bool'))]).toEqual([1, 0, 0, 1])
    expect([...(await castBits('i32', [257, -1], 'u8'))]).toEqual([1, 255])
  })

  test('the same format is the same tensor', () => {
    const x = tensor([1])
    expect(cast(x, 'f32')).toBe(x)
    expect(() => cast(x, 'f8' as never)).toThrow(expect.objectContaining({ code: 'ERR_DTYPE' }))
  })
})
