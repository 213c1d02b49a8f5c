// sort, argsort, topK, cumsum.
import type { DType } from '../../lib/native/dtype'
import { argsort, cumsum, sort, topK } from '../../lib/ops/sort'
import { tensor } from '../../lib/tensor/tensor'
import { host, integers, jestOnly, opCase, type HostTensor } from '../support/op_case'

interface Order {
  axis: number
  descending?: boolean
  k?: number
}

/** f(line, places in x) for every line along the axis. */
function eachLine(x: HostTensor, axis: number, f: (line: number[], at: (i: number) => number, number: number) => void): void {
  const n = x.shape[axis]
  const inner = x.shape.slice(axis + 1).reduce((a, b) => a * b, 1)
  const lines = x.shape.reduce((a, b, i) => (i === axis ? a : a * b), 1)
  for (let line = 0; line < lines; ++line) {
    const at = (i: number) => Math.floor(line / inner) * n * inner + i * inner + (line % inner)
    f(Array.from({ length: n }, (_, i) => x.data[at(i)]), at, line)
  }
}

function ordered(x: HostTensor, { axis, descending = false, k }: Order): [HostTensor, HostTensor] {
  const along = axis < 0 ? axis + x.shape.length : axis
  const count = k ?? x.shape[along]
  const shape = x.shape.map((size, i) => (i === along ? count : size))
  const inner = x.shape.slice(along + 1).reduce((a, b) => a * b, 1)
  const values = host(shape, () => 0)
  const places = host(shape, () => 0)
  eachLine(x, along, (line, _, number) => {
    const order = line.map((_, i) => i)
    order.sort((a, b) => (Number.isNaN(line[a]) ? 1 : Number.isNaN(line[b]) ? -1 : descending ? line[b] - line[a] : line[a] - line[b]))
    for (let i = 0; i < count; ++i) {
      const to = Math.floor(number / inner) * count * inner + i * inner + (number % inner)
      values.data[to] = line[order[i]]
      places.data[to] = order[i]
    }
  })
  return [values, places]
}

const withPlaces = (dtype: DType): DType[] => [dtype, 'i32']
const ties = { values: integers(-3, 4) }
// Distinct values where gradients are compared: 16-bit normals tie and differ from their f64 twins only in f32 steps.
const distinct = { values: (_: unknown, i: number) => ((i * 37) % 101) / 8 - 6 }

opCase<Order>({
  name: 'sort',
  ops: ['sort', 'scatter_add'],
  run: ([x], { axis, descending }) => {
    const { values, indices } = sort(x, axis, descending)
    return [values, indices]
  },
  reference: ([x], order) => ordered(x, order),
  outDTypes: withPlaces,
  samples: [
    { inputs: [{ shape: [33], ...distinct }], attrs: { axis: 0 } },
    { inputs: [{ shape: [3, 100], ...distinct }], attrs: { axis: -1, descending: true } },
    { inputs: [{ shape: [50, 2], ...distinct }], attrs: { axis: 0 } },
    { inputs: [{ shape: [2, 3, 4], ...distinct }], attrs: { axis: 1, descending: true } },
    { inputs: [[1]], attrs: { axis: 0 } },
    { inputs: [[2, 0]], attrs: { axis: 1 } },
  ],
  bench: [
    { label: 'long lines', inputs: [[32, 50257]], attrs: { axis: -1, descending: true } },
    { label: 'short lines', inputs: [[65536, 16]], attrs: { axis: -1 } },
  ],
  errors: [{ what: 'axis', call: () => sort(tensor([1]), 1), code: 'ERR_SHAPE', text: ['sort', 'axis 1', '[1]'] }],
})

opCase<Order>({
  name: 'sort with ties',
  ops: ['sort'],
  run: ([x], { axis, descending }) => [argsort(x, axis, descending), sort(x, axis, descending).values],
  reference: ([x], order) => [...ordered(x, order)].reverse(),
  dtypes: ['f32', 'f16', 'bf16', 'f64', 'i8', 'i32', 'i64'],
  outDTypes: (dtype) => ['i32', dtype],
  samples: [
    { inputs: [{ shape: [4, 33], ...ties }], attrs: { axis: 1 } },
    { inputs: [{ shape: [3, 200], ...ties }], attrs: { axis: 1, descending: true } },
  ],
  noGradient: 'ties have none',
})

opCase<Order>({
  name: 'topK',
  ops: ['top_k', 'scatter_add'],
  run: ([x], { k, axis }) => {
    const { values, indices } = topK(x, k!, axis)
    return [values, indices]
  },
  reference: ([x], { k, axis }) => ordered(x, { axis, k, descending: true }),
  outDTypes: withPlaces,
  samples: [
    { inputs: [{ shape: [33], ...distinct }], attrs: { axis: 0, k: 5 } },
    { inputs: [{ shape: [3, 100], ...distinct }], attrs: { axis: -1, k: 3 } },
    { inputs: [{ shape: [90, 2], ...distinct }], attrs: { axis: 0, k: 1 } },
    { inputs: [{ shape: [2, 5], ...distinct }], attrs: { axis: 1, k: 5 } },
    { inputs: [{ shape: [2, 40], ...distinct }], attrs: { axis: 1, k: 0 } },
  ],
  bench: [{ label: 'vocabulary', inputs: [[32, 50257]], attrs: { axis: -1, k: 50 } }],
  errors: [
    { what: 'k', call: () => topK(tensor([1, 2]), 3), code: 'ERR_SHAPE', text: ['top_k', '3', '[2]'] },
    { what: 'axis', call: () => topK(tensor([1, 2]), 1, 1), code: 'ERR_SHAPE', text: ['topK', 'axis 1'] },
  ],
})

opCase<Order>({
  name: 'topK with ties',
  ops: ['top_k'],
  run: ([x], { k, axis }) => topK(x, k!, axis).indices,
  reference: ([x], { k, axis }) => ordered(x, { axis, k, descending: true })[1],
  dtypes: ['f32', 'bf16', 'i8', 'i32'],
  outDTypes: 'i32',
  samples: [{ inputs: [{ shape: [3, 200], ...ties }], attrs: { axis: 1, k: 11 } }],
  noGradient: 'indices have none',
})

const sums = ([x]: HostTensor[], axis: number) => {
  const out = host(x.shape, () => 0)
  eachLine(x, axis < 0 ? axis + x.shape.length : axis, (line, at) => {
    let sum = 0
    line.forEach((value, i) => (out.data[at(i)] = sum += value))
  })
  return out
}
opCase<number>({
  name: 'cumsum',
  ops: ['cumsum'],
  run: ([x], axis) => cumsum(x, axis),
  reference: sums,
  errorScale: 'tensor',
  samples: [
    { inputs: [[33]], attrs: 0 },
    { inputs: [[4, 35]], attrs: -1 },
    { inputs: [[5, 70]], attrs: 0 },
    { inputs: [[2, 3, 4]], attrs: 1 },
    { inputs: [[0, 4]], attrs: 1 },
  ],
  bench: [
    { label: 'last axis', inputs: [[1024, 1024]], attrs: 1 },
    { label: 'first axis', inputs: [[1024, 1024]], attrs: 0 },
  ],
  errors: [{ what: 'bool', call: () => cumsum(tensor([1], null, { dtype: 'bool' })), code: 'ERR_DTYPE', text: ['cumsum', 'bool'] }],
})
opCase<number>({
  name: 'cumsum of integers',
  ops: ['cumsum'],
  run: ([x], axis) => cumsum(x, axis),
  reference: sums,
  samples: [{ inputs: [{ shape: [3, 20], values: integers(0, 6) }], attrs: 1 }],
  dtypes: ['i8', 'u8', 'i32', 'i64'],
  noGradient: 'integers have none',
})

jestOnly(() => {
  test('NaN comes last, -0 equals 0, infinities first and last', async () => {
    const numbers = [0, NaN, -0, 3, -Infinity, Infinity, NaN, -1]
    for (const dtype of ['f32', 'f16', 'bf16', 'f64'] as const) {
      const x = tensor(numbers, null, { dtype })
      expect([...(await argsort(x).data())]).toEqual([4, 7, 0, 2, 3, 5, 1, 6])
      expect([...(await argsort(x, 0, true).data())]).toEqual([5, 3, 0, 2, 7, 4, 1, 6])
      expect([...(await topK(x, 3).indices.data())]).toEqual([5, 3, 0])
    }
  })
})
