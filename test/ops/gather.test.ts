// gather, scatterAdd, indexSelect, indexAdd, oneHot.
import { gather, indexAdd, indexSelect, oneHot, scatterAdd } from '../../lib/ops/gather'
import { getDevice } from '../../lib/tensor/device'
import { tensor } from '../../lib/tensor/tensor'
import { host, integers, jestOnly, opCase, type HostTensor, type InputSpec } from '../support/op_case'
import { unravel } from '../support/reference'

const flat = (index: number[], shape: readonly number[]) => index.reduce((at, k, i) => at * shape[i] + k, 0)
const indices = (shape: number[], limit: number, dtype: 'i32' | 'i64' = 'i32'): InputSpec => ({ shape, values: integers(0, limit), dtype })

/** The place in x of each element of a tensor of shape `shape`, by indices of the same shape or of one axis. */
function places(x: HostTensor, axis: number, index: HostTensor, shape: readonly number[]): number[] {
  return Array.from({ length: shape.reduce((n, d) => n * d, 1) }, (_, at) => {
    const to = unravel(at, shape)
    to[axis] = index.data[index.shape.length === shape.length && shape.length > 1 ? at : to[axis]]
    return flat(to, x.shape)
  })
}
const picked = (x: HostTensor, axis: number, index: HostTensor, shape: readonly number[]) => {
  const from = places(x, axis, index, shape)
  return host(shape, (at) => x.data[from[at]])
}
function added(x: HostTensor, axis: number, index: HostTensor, source: HostTensor): HostTensor {
  const out = host(x.shape, x.data)
  places(x, axis, index, source.shape).forEach((to, at) => (out.data[to] += source.data[at]))
  return out
}
const positive = (axis: number, x: HostTensor) => (axis < 0 ? axis + x.shape.length : axis)

opCase<number>({
  name: 'gather',
  ops: ['gather', 'scatter_add'],
  run: ([x, index], axis) => gather(x, axis, index),
  reference: ([x, index], axis) => picked(x, positive(axis, x), index, index.shape),
  samples: [
    { inputs: [[33], indices([40], 33)], attrs: 0 },
    { inputs: [[4, 35], indices([4, 3], 35, 'i64')], attrs: 1 },
    { inputs: [[4, 35], indices([7, 35], 4)], attrs: 0 },
    { inputs: [[4, 35], indices([7, 20], 4)], attrs: 0 },
    { inputs: [[5, 6, 7], indices([3, 9, 4], 6)], attrs: -2 },
    { inputs: [[3, 2, 130], indices([3, 4, 130], 2)], attrs: 1 },
    { inputs: [[4, 0], indices([0, 0], 1)], attrs: 0 },
  ],
  gradTolerance: { f32: 1e-5 },
  bench: [
    { label: 'last axis', inputs: [[1024, 1024], indices([1024, 1024], 1024)], attrs: 1 },
    { label: 'first axis', inputs: [[1024, 1024], indices([1024, 1024], 1024)], attrs: 0 },
  ],
  errors: [
    { what: 'index shape', call: () => gather(tensor([[1], [2]]), 1, tensor(new Int32Array(3), [3, 1])), code: 'ERR_SHAPE', text: ['gather', '[3, 1]', '[2, 1]'] },
    { what: 'index rank', call: () => gather(tensor([[1], [2]]), 1, tensor(new Int32Array(3))), code: 'ERR_SHAPE', text: ['gather', '[3]'] },
    { what: 'index dtype', call: () => gather(tensor([1]), 0, tensor([0])), code: 'ERR_DTYPE', text: ['gather', 'index is f32'] },
    { what: 'axis', call: () => gather(tensor([1]), 1, tensor(new Int32Array(1))), code: 'ERR_SHAPE', text: ['gather', 'axis 1'] },
  ],
})

opCase<number>({
  name: 'scatterAdd',
  ops: ['scatter_add', 'gather'],
  run: ([x, index, source], axis) => scatterAdd(x, axis, index, source),
  reference: ([x, index, source], axis) => added(x, positive(axis, x), index, source),
  samples: [
    { inputs: [[7], indices([40], 7), [40]], attrs: 0 },
    { inputs: [[4, 35], indices([4, 3], 35), [4, 3]], attrs: 1 },
    { inputs: [[4, 35], indices([9, 20], 4, 'i64'), [9, 20]], attrs: 0 },
    { inputs: [[5, 6, 7], indices([3, 9, 4], 6), [3, 9, 4]], attrs: -2 },
    { inputs: [[3, 4], indices([0, 4], 3), [0, 4]], attrs: 0 },
  ],
  errorScale: 'tensor',
  bench: [{ inputs: [[1024, 1024], indices([1024, 1024], 1024), [1024, 1024]], attrs: 1 }],
  errors: [
    { what: 'source shape', call: () => scatterAdd(tensor([1, 2]), 0, tensor(new Int32Array(2)), tensor([1])), code: 'ERR_SHAPE', text: ['scatter_add', '[2]', '[1]'] },
    { what: 'source dtype', call: () => scatterAdd(tensor([1]), 0, tensor(new Int32Array(1)), tensor([1], null, { dtype: 'f64' })), code: 'ERR_DTYPE', text: ['scatter_add', 'f64'] },
  ],
})

opCase<number>({
  name: 'indexSelect',
  ops: ['index_select', 'index_add'],
  run: ([x, index], axis) => indexSelect(x, axis, index),
  reference: ([x, index], axis) => {
    const at = positive(axis, x)
    return picked(x, at, index, x.shape.map((size, i) => (i === at ? index.shape[0] : size)))
  },
  samples: [
    { inputs: [[33], indices([5], 33)], attrs: 0 },
    { inputs: [[6, 35], indices([9], 6, 'i64')], attrs: 0 },
    { inputs: [[3, 5, 70], indices([4], 5)], attrs: 1 },
    { inputs: [[3, 5], indices([4], 5)], attrs: -1 },
    { inputs: [[3, 5], indices([0], 5)], attrs: -1 },
  ],
  gradTolerance: { f32: 1e-5 },
  bench: [{ label: 'rows', inputs: [[4096, 768], indices([4096], 4096)], attrs: 0 }],
  errors: [
    { what: 'index rank', call: () => indexSelect(tensor([1]), 0, tensor(new Int32Array(1), [1, 1])), code: 'ERR_SHAPE', text: ['index_select', '[1, 1]'] },
  ],
})

opCase<number>({
  name: 'indexAdd',
  ops: ['index_add', 'index_select'],
  run: ([x, index, source], axis) => indexAdd(x, axis, index, source),
  reference: ([x, index, source], axis) => added(x, positive(axis, x), index, source),
  samples: [
    { inputs: [[7], indices([40], 7), [40]], attrs: 0 },
    { inputs: [[6, 35], indices([9], 6), [9, 35]], attrs: 0 },
    { inputs: [[3, 5, 70], indices([4], 5), [3, 4, 70]], attrs: 1 },
  ],
  errorScale: 'tensor',
  errors: [
    { what: 'source shape', call: () => indexAdd(tensor([1, 2]), 0, tensor(new Int32Array(2)), tensor([1])), code: 'ERR_SHAPE', text: ['index_add', '[1]', '[2]'] },
  ],
})

for (const dtype of ['f32', 'f16', 'bf16', 'f64', 'i8', 'i64', 'bool'] as const) {
  opCase({
    name: `oneHot as ${dtype}`,
    ops: ['one_hot'],
    run: ([index]) => oneHot(index, 5, dtype),
    reference: ([index]) => host([...index.shape, 5], (at) => Number(index.data[Math.floor(at / 5)] === at % 5)),
    samples: [[indices([33], 5)], [indices([2, 3], 5, 'i64')], [indices([], 5)], [indices([0], 5)]],
    dtypes: ['i32'],
    outDTypes: dtype,
    noGradient: 'integers have none',
  })
}

jestOnly(() => {
  test.each([
    ['gather', () => gather(tensor([[1, 2, 3]]), 1, tensor(new Int32Array([0, 3]), [1, 2])), 'index 3 at position 1 is outside 0 .. 2'],
    ['index_select', () => indexSelect(tensor([1, 2]), 0, tensor(new Int32Array([-1]))), 'index -1 at position 0 is outside 0 .. 1'],
    ['scatter_add', () => scatterAdd(tensor([1, 2]), 0, tensor(new Int32Array([0, 1, 2])), tensor([1, 2, 3])), 'index 2 at position 2 is outside 0 .. 1'],
    ['one_hot', () => oneHot(tensor(new Int32Array([4])), 4), 'index 4 at position 0 is outside 0 .. 3'],
  ])('%s names an index that is out of range', async (_, call, text) => {
    await expect(call().data()).rejects.toMatchObject({ code: 'ERR_KERNEL', message: expect.stringContaining(text) })
    getDevice().clearError()
  })
})
