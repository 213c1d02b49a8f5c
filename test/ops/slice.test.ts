// slice, writeSlice: boxes of tensors.
import { slice, writeSlice } from '../../lib/ops/slice'
import { tensor } from '../../lib/tensor/tensor'
import { host, integers, jestOnly, opCase, type HostTensor } from '../support/op_case'
import { unravel } from '../support/reference'
import { count } from '../support/samples'

interface Box {
  start: number[]
  stop: number[]
  step?: number[]
}

function boxOf(x: HostTensor, { start, stop, step }: Box): HostTensor {
  const resolve = (at: number, axis: number) => (at < 0 ? at + x.shape[axis] : at)
  const steps = step ?? x.shape.map(() => 1)
  const shape = x.shape.map((_, i) => Math.ceil((resolve(stop[i], i) - resolve(start[i], i)) / steps[i]))
  return host(shape, (flat) => {
    const index = unravel(flat, shape)
    return x.data[index.reduce((at, k, i) => at * x.shape[i] + resolve(start[i], i) + k * steps[i], 0)]
  })
}

const boxes: { inputs: number[][]; attrs: Box }[] = [
  { inputs: [[33]], attrs: { start: [1], stop: [32] } },
  { inputs: [[]], attrs: { start: [], stop: [] } },
  { inputs: [[4, 35]], attrs: { start: [1, 3], stop: [3, 34] } },
  { inputs: [[5, 33]], attrs: { start: [0, 1], stop: [5, 33], step: [2, 3] } },
  { inputs: [[3, 4, 5]], attrs: { start: [-2, 0, 0], stop: [-1, 4, 5] } },
  { inputs: [[3, 4]], attrs: { start: [1, 2], stop: [1, 4] } },
  { inputs: [[0, 4]], attrs: { start: [0, 0], stop: [0, 4] } },
]

opCase<Box>({
  name: 'slice',
  ops: ['slice', 'slice_backward'],
  run: ([x], { start, stop, step }) => slice(x, start, stop, step),
  reference: ([x], box) => boxOf(x, box),
  samples: boxes,
  bench: [
    { label: 'columns', inputs: [[1024, 1024]], attrs: { start: [0, 100], stop: [1024, 900] } },
    { label: 'every second', inputs: [[1024, 1024]], attrs: { start: [0, 0], stop: [1024, 1024], step: [1, 2] } },
  ],
  errors: [
    { what: 'box beyond the end', call: () => slice(tensor([1, 2, 3]), [1], [4]), code: 'ERR_SHAPE', text: ['slice', '1:4:1', '[3]'] },
    { what: 'too few entries', call: () => slice(tensor([[1], [2]]), [0], [1]), code: 'ERR_SHAPE', text: ['slice', 'start has 1'] },
    { what: 'step 0', call: () => slice(tensor([1, 2]), [0], [2], [0]), code: 'ERR_SHAPE', text: ['slice', '0:2:0'] },
  ],
})

opCase<Box>({
  name: 'slice of integers',
  ops: ['slice'],
  run: ([x], { start, stop, step }) => slice(x, start, stop, step),
  reference: ([x], box) => boxOf(x, box),
  samples: boxes.map(({ inputs, attrs }) => ({ inputs: [{ shape: inputs[0], values: integers(0, 2) }], attrs })),
  dtypes: ['i8', 'u8', 'i32', 'i64', 'bool'],
  noGradient: 'integers have none',
})

jestOnly(() => {
  test('writeSlice changes the box and nothing else', async () => {
    const target = tensor(new Float32Array(24), [2, 3, 4])
    writeSlice(target, tensor(Float32Array.from([1, 2, 3, 4]), [1, 2, 2]), [1, 0, 1])
    const wanted = new Float32Array(24)
    wanted.set([1, 2], 13)
    wanted.set([3, 4], 17)
    expect([...(await target.toFloat32())]).toEqual([...wanted])
    expect(count(target.shape)).toBe(24)
  })

  test('writeSlice names what does not fit', () => {
    const target = tensor([1, 2, 3])
    expect(() => writeSlice(target, tensor([1, 2]), [2])).toThrow(
      expect.objectContaining({ code: 'ERR_SHAPE', message: expect.stringContaining('write_slice: source [2]') }),
    )
    expect(() => writeSlice(target, tensor([1, 2], null, { dtype: 'f64' }), [0])).toThrow(
      expect.objectContaining({ code: 'ERR_DTYPE' }),
    )
  })
})
