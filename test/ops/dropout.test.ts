// dropout: exactly the elements that Philox says.
import { dropout } from '../../lib/ops/dropout'
import { ones, zeros } from '../../lib/ops/creation'
import { Generator } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { host, jestOnly, opCase } from '../support/op_case'
import { philox, philoxUniform } from '../support/philox'

opCase<{ p: number }>({
  name: 'dropout',
  ops: ['dropout'],
  run: ([x], { p }) => dropout(x, p, { generator: new Generator(2 ** 33 + 7) }),
  reference: ([x], { p }, r) => host(x.shape, (i) => (philoxUniform(2 ** 33 + 7, 0, i) >= Math.fround(p) ? r(x.data[i] * r(1 / (1 - p))) : 0)),
  samples: [
    { inputs: [[3, 100]], attrs: { p: 0.3 } },
    { inputs: [[1]], attrs: { p: 0.5 } },
    { inputs: [[257]], attrs: { p: 0.9 } },
    { inputs: [[0, 3]], attrs: { p: 0.1 } },
  ],
  bench: [{ inputs: [[2048, 384]], attrs: { p: 0.1 } }],
  errors: [{ what: 'p = 1', call: () => dropout(zeros([2]), 1), code: 'ERR_ARGUMENT', text: ['dropout', 'p must be', '1'] }],
})

jestOnly(() => {
  test('the published known answers of Philox 4x32-10', () => {
    const hex = (words: number[]) => words.map((w) => w.toString(16).padStart(8, '0')).join(' ')
    expect(hex(philox([0, 0], [0, 0, 0, 0]))).toBe('6627e8d5 e169c58d bc57ac4c 9b00dbd8')
    const all = 0xffffffff
    expect(hex(philox([all, all], [all, all, all, all]))).toBe('408f276d 41c83b0e a20bc7c6 6d5451fd')
  })

  test('the share of dropped elements, and the mean, are right', async () => {
    const y = (await scope(() => dropout(ones([100_000]), 0.25)).data()) as Float32Array
    const dropped = y.filter((value) => value === 0).length
    expect(Math.abs(dropped / 100_000 - 0.25)).toBeLessThan(0.006)
    expect(Math.abs(y.reduce((a, b) => a + b, 0) / 100_000 - 1)).toBeLessThan(0.01)
  })
})
