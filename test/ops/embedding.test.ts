// embedding: rows by id, with positions.
import { backward } from '../../lib/autograd/backward'
import { embedding } from '../../lib/ops/embedding'
import { sum } from '../../lib/ops/reductions'
import { zeros } from '../../lib/ops/creation'
import { getDevice } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { host, integers, jestOnly, opCase } from '../support/op_case'

const ids = (shape: number[], rows: number) => ({ shape, dtype: 'i32' as const, values: integers(0, rows) })

opCase<{ offset?: number }>({
  name: 'embedding',
  ops: ['embedding', 'embedding_backward'],
  run: ([weight, index, table, positions], { offset }) => embedding(weight, index, { positionTable: table, positions, offset }),
  reference: ([weight, index, table, positions], { offset = 0 }, r) => {
    const width = weight.shape[1]
    const tokens = index.shape[index.shape.length - 1]
    return host([...index.shape, width], (i) => {
      const at = Math.floor(i / width)
      const value = weight.data[index.data[at] * width + (i % width)]
      if (!table) return value
      const place = positions ? positions.data[at] : offset + (at % tokens)
      return r(value + table.data[place * width + (i % width)])
    })
  },
  samples: [
    { inputs: [[5, 3], ids([7], 5), null, null], attrs: {} },
    { inputs: [[9, 33], ids([2, 6], 9), [6, 33], null], attrs: {} },
    { inputs: [[4, 8], ids([3, 2], 4), [9, 8], null], attrs: { offset: 5 } },
    { inputs: [[4, 8], ids([3, 5], 4), [6, 8], ids([3, 5], 6)], attrs: {} },
    { inputs: [[4, 8], ids([0], 4), null, null], attrs: {} },
    { inputs: [[3, 5], ids([200], 3), null, null], attrs: {} },
    { inputs: [[3, 5], ids([], 3), null, null], attrs: {} },
  ],
  gradTolerance: { bf16: 0.05, f16: 0.01 },
  bench: [{ inputs: [[256, 384], ids([8, 256], 256), [256, 384], null], attrs: {} }],
  errors: [
    { what: 'floating ids', call: () => embedding(zeros([2, 3]), zeros([2])), code: 'ERR_DTYPE', text: ['embedding', 'i32'] },
    { what: 'tables of two widths', call: () => embedding(zeros([2, 3]), zeros([2], { dtype: 'i32' }), { positionTable: zeros([4, 5]) }), code: 'ERR_SHAPE', text: ['[2, 3]', '[4, 5]'] },
  ],
})

jestOnly(() => {
  test.each([
    [new Int32Array([0, 5]), {}, 'id 5 at place 1 is outside the table of 3 rows'],
    [new Int32Array([0, -1]), {}, 'id -1 at place 1'],
  ])('ids %p fail the stream by name, and the device works on', async (values, options, text) => {
    const out = scope(() => embedding(zeros([3, 2]), tensor(values), options))
    await expect(out.data()).rejects.toMatchObject({ code: 'ERR_KERNEL', message: expect.stringContaining(text) })
    getDevice().clearError()
    await getDevice().synchronize()
  })

  test('the gradient is added to the one that is there', async () => {
    const weight = tensor(new Float32Array(6), [3, 2], { requiresGrad: true })
    for (let i = 0; i < 2; ++i) scope(() => backward(sum(embedding(weight, tensor(new Int32Array([2, 0, 2]))))))
    expect(Array.from((await weight.grad!.data()) as Float32Array)).toEqual([2, 2, 0, 0, 4, 4])
  })
})
