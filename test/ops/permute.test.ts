// permute, transpose, flip.
import { flip, permute, transpose } from '../../lib/ops/permute'
import { tensor } from '../../lib/tensor/tensor'
import { host, integers, opCase, type HostTensor } from '../support/op_case'
import { unravel } from '../support/reference'

const flat = (index: number[], shape: readonly number[]) => index.reduce((at, k, i) => at * shape[i] + k, 0)

function permuted(x: HostTensor, axes: number[]): HostTensor {
  const shape = axes.map((axis) => x.shape[axis])
  return host(shape, (at) => {
    const index = unravel(at, shape)
    const from = new Array<number>(shape.length)
    axes.forEach((axis, i) => (from[axis] = index[i]))
    return x.data[flat(from, x.shape)]
  })
}

const orders: { inputs: number[][]; attrs: number[] }[] = [
  { inputs: [[33, 35]], attrs: [1, 0] },
  { inputs: [[2, 17, 40]], attrs: [0, 2, 1] },
  { inputs: [[2, 5, 3, 8]], attrs: [0, 2, 1, 3] },
  { inputs: [[3, 4, 5, 2]], attrs: [3, 1, 2, 0] },
  { inputs: [[3, 4, 5]], attrs: [2, 0, 1] },
  { inputs: [[3, 4, 5]], attrs: [0, 1, 2] },
  { inputs: [[1, 4, 1]], attrs: [2, 1, 0] },
  { inputs: [[]], attrs: [] },
  { inputs: [[0, 3]], attrs: [1, 0] },
  { inputs: [[2, 1, 2, 3, 2, 1, 2, 2]], attrs: [7, 6, 5, 4, 3, 2, 1, 0] },
]

opCase<number[]>({
  name: 'permute',
  ops: ['permute'],
  run: ([x], axes) => permute(x, axes),
  reference: ([x], axes) => permuted(x, axes),
  samples: orders,
  bench: [
    { label: 'matrix', inputs: [[2048, 2048]], attrs: [1, 0] },
    { label: 'matrix', inputs: [[2048, 2048]], attrs: [1, 0], dtypes: ['bf16'] },
    { label: 'heads', inputs: [[8, 512, 12, 64]], attrs: [0, 2, 1, 3] },
    { label: 'keys', inputs: [[8, 12, 512, 64]], attrs: [0, 1, 3, 2] },
  ],
  errors: [
    { what: 'an axis twice', call: () => permute(tensor([[1]]), [0, 0]), code: 'ERR_SHAPE', text: ['permute', '[0, 0]', '[1, 1]'] },
    { what: 'too few axes', call: () => permute(tensor([[1]]), [0]), code: 'ERR_SHAPE', text: ['permute', '[0]'] },
    { what: 'no such axis', call: () => permute(tensor([[1]]), [0, 2]), code: 'ERR_SHAPE', text: ['permute', 'axis 2'] },
  ],
})

opCase<number[]>({
  name: 'permute of integers',
  ops: ['permute'],
  run: ([x], axes) => permute(x, axes),
  reference: ([x], axes) => permuted(x, axes),
  samples: orders.map(({ inputs, attrs }) => ({ inputs: [{ shape: inputs[0], values: integers(0, 100) }], attrs })),
  dtypes: ['i8', 'u8', 'i32', 'i64'],
  noGradient: 'integers have none',
})

opCase<[number, number] | []>({
  name: 'transpose',
  ops: ['permute'],
  run: ([x], [a, b]) => transpose(x, a, b),
  reference: ([x], [a = -2, b = -1]) => {
    const axes = x.shape.map((_, axis) => axis)
    axes.splice(a + (a < 0 ? x.shape.length : 0), 1, b + (b < 0 ? x.shape.length : 0))
    axes.splice(b + (b < 0 ? x.shape.length : 0), 1, a + (a < 0 ? x.shape.length : 0))
    return permuted(x, axes)
  },
  samples: [
    { inputs: [[4, 33]], attrs: [] },
    { inputs: [[2, 3, 4]], attrs: [0, -1] },
  ],
  errors: [{ what: 'one axis', call: () => transpose(tensor([1])), code: 'ERR_SHAPE', text: ['transpose', 'axis -2', '[1]'] }],
})

opCase<number[]>({
  name: 'flip',
  ops: ['flip'],
  run: ([x], axes) => flip(x, axes),
  reference: ([x], axes) => {
    const backwards = axes.map((axis) => (axis < 0 ? axis + x.shape.length : axis))
    return host(x.shape, (at) => {
      const index = unravel(at, x.shape).map((k, i) => (backwards.includes(i) ? x.shape[i] - 1 - k : k))
      return x.data[flat(index, x.shape)]
    })
  },
  samples: [
    { inputs: [[33]], attrs: [0] },
    { inputs: [[4, 5]], attrs: [-1] },
    { inputs: [[4, 5]], attrs: [0] },
    { inputs: [[3, 4, 5]], attrs: [0, 2] },
    { inputs: [[3, 4, 5]], attrs: [0, 1, 2] },
    { inputs: [[3, 4]], attrs: [] },
    { inputs: [[0, 4]], attrs: [0] },
  ],
  bench: [{ inputs: [[2048, 1024]], attrs: [1] }],
  errors: [{ what: 'an axis twice', call: () => flip(tensor([1]), [0, -1]), code: 'ERR_SHAPE', text: ['flip', 'axes[1] = 0'] }],
})
