// rotary: both conventions, packed and not, with positions.
import { alibiSlopes } from '../../lib/ops/alibi'
import { rotary, type RotaryOptions } from '../../lib/ops/rotary'
import { zeros } from '../../lib/ops/creation'
import { host, integers, jestOnly, opCase } from '../support/op_case'

opCase<RotaryOptions>({
  name: 'rotary',
  ops: ['rotary'],
  run: ([x, positions], options) => rotary(x, { ...options, positions }),
  reference: ([x, positions], { heads = 0, kvHeads = heads, base = 10000, interleaved = false, offset = 0 }, r) => {
    const packed = heads > 0
    const parts = packed ? heads + 2 * kvHeads : x.shape[2]
    const width = packed ? x.shape[2] / parts : x.shape[3]
    const tokens = x.shape[1]
    const half = width / 2
    return host(x.shape, (i) => {
      const d = i % width
      const h = Math.floor(i / width) % parts
      const at = Math.floor(i / (width * parts))
      if (packed && h >= heads + kvHeads) return x.data[i]
      const j = interleaved ? d >> 1 : d % half
      const first = i - d + (interleaved ? 2 * j : j)
      const second = i - d + (interleaved ? 2 * j + 1 : j + half)
      const angle = (positions ? positions.data[at] : offset + (at % tokens)) * base ** ((-2 * j) / width)
      const [c, s] = [r(Math.cos(angle)), r(Math.sin(angle))]
      return i === first ? r(r(x.data[first] * c) - r(x.data[second] * s)) : r(r(x.data[first] * s) + r(x.data[second] * c))
    })
  },
  errorScale: 'tensor',
  samples: [
    { inputs: [[2, 5, 3, 8], null], attrs: {} },
    { inputs: [[1, 4, 2, 6], null], attrs: { interleaved: true, offset: 100 } },
    { inputs: [[2, 3, 24], null], attrs: { heads: 2, kvHeads: 1, base: 500 } },
    { inputs: [[2, 3, 24], { shape: [2, 3], dtype: 'i32', values: integers(0, 1000) }], attrs: { heads: 2 } },
    { inputs: [[0, 3, 1, 4], null], attrs: {} },
  ],
  gradTolerance: { bf16: 0.02, f16: 0.005 },
  bench: [{ inputs: [[8, 256, 1152], null], attrs: { heads: 6 } }],
  errors: [
    { what: 'an odd width', call: () => rotary(zeros([1, 2, 3, 5])), code: 'ERR_SHAPE', text: ['rotary', 'even', '5'] },
    { what: 'parts that do not divide', call: () => rotary(zeros([1, 2, 10]), { heads: 2 }), code: 'ERR_SHAPE', text: ['rotary', '[1, 2, 10]', '6'] },
  ],
})

jestOnly(() => {
  test('ALiBi slopes as published', () => {
    expect(alibiSlopes(8)).toEqual([1, 2, 3, 4, 5, 6, 7, 8].map((i) => 2 ** -i))
    expect(alibiSlopes(12).slice(8)).toEqual([0.5, 1.5, 2.5, 3.5].map((i) => 2 ** -i))
  })
})
