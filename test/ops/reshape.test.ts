// reshape, flatten, squeeze, unsqueeze: the same numbers under another shape.
import { flatten, reshape, squeeze, unsqueeze } from '../../lib/ops/reshape'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { host, opCase } from '../support/op_case'

interface Reshaped {
  f: (x: Tensor) => Tensor
  shape: number[]
}
const sample = (from: number[], shape: number[], f: (x: Tensor) => Tensor) => ({ inputs: [from], attrs: { f, shape } })

opCase<Reshaped>({
  name: 'reshape',
  ops: [],
  run: ([x], { f }) => f(x),
  reference: ([x], { shape }) => host(shape, x.data),
  samples: [
    sample([2, 33], [66], (x) => reshape(x, [66])),
    sample([4, 6], [2, 4, 3], (x) => reshape(x, [2, -1, 3])),
    sample([1], [], (x) => reshape(x, [])),
    sample([0, 4], [2, 0], (x) => reshape(x, [2, 0])),
    sample([2, 3, 4, 5], [2, 12, 5], (x) => flatten(x, 1, 2)),
    sample([2, 3, 4], [24], (x) => flatten(x)),
    sample([], [1], (x) => flatten(x)),
    sample([1, 3, 1], [3], (x) => squeeze(x)),
    sample([1, 3, 1], [1, 3], (x) => squeeze(x, -1)),
    sample([2, 3], [2, 1, 3], (x) => unsqueeze(x, 1)),
    sample([2, 3], [2, 3, 1], (x) => unsqueeze(x, -1)),
  ],
  errors: [
    { what: 'sizes', call: () => reshape(tensor([1, 2, 3]), [2, 2]), code: 'ERR_SHAPE', text: ['reshape', '[3]', '[2, 2]'] },
    { what: 'two -1', call: () => reshape(tensor([1, 2]), [-1, -1]), code: 'ERR_SHAPE', text: ['reshape', '[-1, -1]'] },
    { what: 'unknown size of nothing', call: () => reshape(tensor([], [0]), [0, -1]), code: 'ERR_SHAPE', text: ['reshape'] },
    { what: 'axis', call: () => flatten(tensor([1, 2]), 2), code: 'ERR_SHAPE', text: ['flatten', 'axis 2', '[2]'] },
    { what: 'axis order', call: () => flatten(tensor([[1]]), 1, 0), code: 'ERR_SHAPE', text: ['flatten', 'axis 1'] },
    { what: 'axis of another size', call: () => squeeze(tensor([1, 2]), 0), code: 'ERR_SHAPE', text: ['squeeze', 'size 2'] },
    { what: 'new axis', call: () => unsqueeze(tensor([1]), 3), code: 'ERR_SHAPE', text: ['unsqueeze', 'axis 3'] },
  ],
})
