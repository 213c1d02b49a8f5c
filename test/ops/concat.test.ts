// concat, stack, split, chunk, pad, expand.
import { backward } from '../../lib/autograd/backward'
import { expand } from '../../lib/ops/broadcast'
import { chunk, concat, pad, split, stack } from '../../lib/ops/concat'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { host, integers, jestOnly, opCase, type HostTensor, type InputSpec } from '../support/op_case'
import { broadcasted, unravel } from '../support/reference'

const flat = (index: number[], shape: readonly number[]) => index.reduce((at, k, i) => at * shape[i] + k, 0)

function joined(xs: HostTensor[], axis: number): HostTensor {
  const shape = xs[0].shape.map((size, i) => (i === axis ? xs.reduce((n, x) => n + x.shape[axis], 0) : size))
  return host(shape, (at) => {
    const index = unravel(at, shape)
    let k = 0
    while (index[axis] >= xs[k].shape[axis]) index[axis] -= xs[k++].shape[axis]
    return xs[k].data[flat(index, xs[k].shape)]
  })
}

function cut(x: HostTensor, sizes: number[], axis: number): HostTensor[] {
  let first = 0
  return sizes.map((size) => {
    const shape = x.shape.map((d, i) => (i === axis ? size : d))
    const from = first
    first += size
    return host(shape, (at) => {
      const index = unravel(at, shape)
      index[axis] += from
      return x.data[flat(index, x.shape)]
    })
  })
}

const joins: { inputs: number[][]; attrs: number }[] = [
  { inputs: [[3], [5], [1]], attrs: 0 },
  { inputs: [[2, 33], [2, 1], [2, 0], [2, 7]], attrs: 1 },
  { inputs: [[2, 3, 4], [5, 3, 4]], attrs: 0 },
  { inputs: [[2, 3, 4], [2, 2, 4]], attrs: 1 },
  { inputs: [[0, 3], [0, 3]], attrs: 1 },
  { inputs: [[4, 5]], attrs: 0 },
]
opCase<number>({
  name: 'concat',
  ops: ['concat', 'slice'],
  run: (xs, axis) => concat(xs, axis),
  reference: (xs, axis) => joined(xs, axis),
  samples: joins,
  bench: [
    { label: 'rows', inputs: [[512, 1024], [512, 1024]], attrs: 0 },
    { label: 'columns', inputs: [[1024, 512], [1024, 512]], attrs: 1 },
  ],
  errors: [
    { what: 'other sizes', call: () => concat([tensor([[1]]), tensor([[1, 2]])], 0), code: 'ERR_SHAPE', text: ['concat', '[1, 1]', '[1, 2]'] },
    { what: 'axis', call: () => concat([tensor([1])], 1), code: 'ERR_SHAPE', text: ['concat', 'axis 1'] },
    { what: 'nothing', call: () => concat([], 0), code: 'ERR_ARGUMENT', text: ['concat'] },
    { what: 'dtypes', call: () => concat([tensor([1]), tensor([1], null, { dtype: 'f64' })]), code: 'ERR_DTYPE', text: ['concat'] },
    { what: 'no axes', call: () => concat([tensor(1)]), code: 'ERR_SHAPE', text: ['concat', '[]'] },
  ],
})

opCase<number>({
  name: 'concat of integers',
  ops: ['concat'],
  run: (xs, axis) => concat(xs, axis),
  reference: (xs, axis) => joined(xs, axis),
  samples: joins.map(({ inputs, attrs }) => ({ inputs: inputs.map((shape): InputSpec => ({ shape, values: integers(0, 99) })), attrs })),
  dtypes: ['i8', 'u8', 'i32', 'i64'],
  noGradient: 'integers have none',
})

opCase<number>({
  name: 'stack',
  ops: ['concat'],
  run: (xs, axis) => stack(xs, axis),
  reference: (xs, axis) => {
    const rank = xs[0].shape.length + 1
    const at = axis < 0 ? axis + rank : axis
    return joined(xs.map((x) => ({ ...x, shape: [...x.shape.slice(0, at), 1, ...x.shape.slice(at)] })), at)
  },
  samples: [
    { inputs: [[3, 33], [3, 33]], attrs: 0 },
    { inputs: [[3, 4], [3, 4], [3, 4]], attrs: -1 },
    { inputs: [[], []], attrs: 0 },
  ],
  errors: [{ what: 'other shapes', call: () => stack([tensor([1]), tensor([1, 2])]), code: 'ERR_SHAPE', text: ['stack', '[1]', '[2]'] }],
})

opCase<{ sizes: number | number[]; list: number[]; axis: number }>({
  name: 'split',
  ops: ['slice', 'concat'],
  run: ([x], { sizes, axis }) => split(x, sizes, axis),
  reference: ([x], { list, axis }) => cut(x, list, axis < 0 ? axis + x.shape.length : axis),
  samples: [
    { inputs: [[4, 33]], attrs: { sizes: [1, 0, 32], list: [1, 0, 32], axis: 1 } },
    { inputs: [[7, 3]], attrs: { sizes: 3, list: [3, 3, 1], axis: 0 } },
    { inputs: [[2, 3, 6]], attrs: { sizes: 3, list: [3, 3], axis: -1 } },
    { inputs: [[0, 3]], attrs: { sizes: 3, list: [0], axis: 0 } },
  ],
  errors: [
    { what: 'sizes', call: () => split(tensor([1, 2, 3]), [1, 1]), code: 'ERR_SHAPE', text: ['split', '[1,1]', '[3]'] },
    { what: 'size 0', call: () => split(tensor([1, 2, 3]), 0), code: 'ERR_SHAPE', text: ['split'] },
    { what: 'axis', call: () => split(tensor([1]), 1, 1), code: 'ERR_SHAPE', text: ['split', 'axis 1'] },
  ],
})

opCase<{ count: number; list: number[] }>({
  name: 'chunk',
  ops: ['slice', 'concat'],
  run: ([x], { count }) => chunk(x, count, 1),
  reference: ([x], { list }) => cut(x, list, 1),
  samples: [
    { inputs: [[2, 9]], attrs: { count: 3, list: [3, 3, 3] } },
    { inputs: [[2, 7]], attrs: { count: 3, list: [3, 3, 1] } },
    { inputs: [[2, 2]], attrs: { count: 3, list: [1, 1] } },
  ],
  errors: [{ what: 'count', call: () => chunk(tensor([1]), 0), code: 'ERR_ARGUMENT', text: ['chunk', '0'] }],
})

opCase<{ widths: [number, number][]; value: number }>({
  name: 'pad',
  ops: ['fill', 'write_slice', 'slice'],
  run: ([x], { widths, value }) => pad(x, widths, value),
  reference: ([x], { widths, value }) => {
    const shape = x.shape.map((size, i) => size + widths[i][0] + widths[i][1])
    return host(shape, (at) => {
      const index = unravel(at, shape).map((k, i) => k - widths[i][0])
      return index.every((k, i) => k >= 0 && k < x.shape[i]) ? x.data[flat(index, x.shape)] : value
    })
  },
  samples: [
    { inputs: [[33]], attrs: { widths: [[1, 2]], value: 0 } },
    { inputs: [[3, 5]], attrs: { widths: [[0, 2], [3, 0]], value: -1.5 } },
    { inputs: [[2, 0]], attrs: { widths: [[1, 1], [1, 1]], value: 2 } },
    { inputs: [[]], attrs: { widths: [], value: 0 } },
  ],
  errors: [
    { what: 'pairs', call: () => pad(tensor([1]), [[0, 1], [0, 1]]), code: 'ERR_SHAPE', text: ['pad', '[1]'] },
    { what: 'negative', call: () => pad(tensor([1]), [[-1, 1]]), code: 'ERR_SHAPE', text: ['pad', '[[-1,1]]'] },
  ],
})

opCase<{ shape: number[]; full: number[] }>({
  name: 'expand',
  ops: ['broadcast_to'],
  run: ([x], { shape }) => expand(x, shape),
  reference: ([x], { full }) => broadcasted([x, host(full, () => 0)], ([value]) => value),
  samples: [
    { inputs: [[1, 33]], attrs: { shape: [4, -1], full: [4, 33] } },
    { inputs: [[3, 1]], attrs: { shape: [2, -1, 5], full: [2, 3, 5] } },
  ],
  gradTolerance: { f32: 1e-5, f16: 1e-2, bf16: 1e-1 },
  errors: [{ what: 'a new axis of no size', call: () => expand(tensor([1]), [-1, 1]), code: 'ERR_SHAPE', text: ['broadcast_to'] }],
})

jestOnly(() => {
  test('parts of a split that are not used have gradient 0', async () => {
    const x = tensor([1, 2, 3, 4], null, { requiresGrad: true })
    scope(() => backward(split(x, 2)[1], tensor([5, 6])))
    expect([...(await x.grad!.toFloat32())]).toEqual([0, 0, 5, 6])
  })
})
