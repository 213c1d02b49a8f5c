// Choice between two tensors, and repetition to a larger shape.
import { broadcastTo } from '../../lib/ops/broadcast'
import { where } from '../../lib/ops/where'
import { dtypes } from '../../lib/native/dtype'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { host, integers, jestOnly, opCase, type InputSpec } from '../support/op_case'
import { broadcasted } from '../support/reference'

const condition = (shape: number[]): InputSpec => ({ shape, values: integers(0, 2), dtype: 'bool' })
const shapes: [number[], number[], number[]][] = [
  [[3, 33], [3, 33], [3, 33]],
  [[3, 33], [33], []],
  [[3, 33], [], [3, 33]],
  [[3, 1], [3, 33], [1, 33]],
  [[], [2, 3], [2, 3]],
  [[2, 1, 4, 1], [3, 1, 5], [2, 1, 1, 1]],
  [[0, 2], [2], [0, 2]],
]

opCase({
  name: 'where',
  ops: ['where', 'sum'],
  run: ([c, x, y]) => where(c, x, y),
  reference: ([c, x, y]) => broadcasted([c, x, y], ([k, a, b]) => (k ? a : b)),
  samples: shapes.map(([c, x, y]) => [condition(c), x, y]),
  gradTolerance: { f16: 5e-3, bf16: 4e-2 },
  bench: [{ inputs: [condition([1024, 1024]), [1024, 1024], [1024, 1024]] }],
  errors: [
    {
      what: 'a condition of numbers',
      call: () => where(tensor([1]), tensor([1]), tensor([1])),
      code: 'ERR_DTYPE',
      text: ['where', 'condition is f32, needs bool'],
    },
    {
      what: 'a number that the format does not hold',
      call: () => where(tensor([1], null, { dtype: 'bool' }), tensor([1], null, { dtype: 'i8' }), 0.5),
      code: 'ERR_ARGUMENT',
      text: ['where', '0.5', 'i8'],
    },
    {
      what: 'shapes that do not broadcast',
      call: () => where(tensor([1, 0], null, { dtype: 'bool' }), tensor([1, 2, 3]), tensor([1])),
      code: 'ERR_SHAPE',
      text: ['where', '[2]', '[3]'],
    },
  ],
})

opCase({
  name: 'where of other formats',
  ops: ['where'],
  run: ([c, x, y]) => where(c, x, y),
  reference: ([c, x, y]) => broadcasted([c, x, y], ([k, a, b]) => (k ? a : b)),
  samples: shapes.map(([c, x, y]) => [condition(c), { shape: x, values: integers(0, 9) }, { shape: y, values: integers(0, 9) }]),
  dtypes: dtypes.slice(4),
  noGradient: 'integers have none',
})

opCase<{ shape: number[] }>({
  name: 'broadcastTo',
  ops: ['broadcast_to', 'sum'],
  run: ([x], { shape }) => broadcastTo(x, shape),
  reference: ([x], { shape }) => broadcasted([x, host(shape, () => 0)], ([value]) => value),
  samples: [
    { inputs: [[3, 1]], attrs: { shape: [3, 33] } },
    { inputs: [[33]], attrs: { shape: [2, 3, 33] } },
    { inputs: [[]], attrs: { shape: [5] } },
    { inputs: [[2, 1, 3]], attrs: { shape: [2, 4, 3] } },
    { inputs: [[1, 3]], attrs: { shape: [0, 3] } },
    { inputs: [[4, 3]], attrs: { shape: [4, 3] } },
  ],
  gradTolerance: { f16: 5e-3, bf16: 4e-2 },
  bench: [{ inputs: [[1024, 1]], attrs: { shape: [1024, 1024] } }],
  errors: [
    {
      what: 'a shape that does not fit',
      call: () => broadcastTo(tensor([1, 2]), [3]),
      code: 'ERR_SHAPE',
      text: ['broadcast_to', '[2]', '[3]'],
    },
  ],
})

jestOnly(() => {
  test('numbers on either side', async () => {
    const c = tensor([1, 0], null, { dtype: 'bool' })
    const values = async (x: Tensor) => [...(await x.toFloat32())]
    expect(await values(where(c, tensor([1, 2]), 9))).toEqual([1, 9])
    expect(await values(where(c, 9, tensor([1, 2])))).toEqual([9, 2])
  })
})
