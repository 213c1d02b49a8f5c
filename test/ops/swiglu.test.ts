// silu(a) b, of two tensors and of the halves of one.
import { swiglu } from '../../lib/ops/swiglu'
import { tensor } from '../../lib/tensor/tensor'
import { host, opCase, type Rounding } from '../support/op_case'

const gated = (a: number, b: number, r: Rounding) => r(r(a * r(1 / r(1 + r(Math.exp(-a))))) * b)

opCase({
  name: 'swiglu of halves',
  ops: ['swiglu', 'swiglu_backward'],
  run: ([x]) => swiglu(x),
  reference: ([x], _, r) => {
    const width = x.shape[x.shape.length - 1] / 2
    return host([...x.shape.slice(0, -1), width], (i) => {
      const a = Math.floor(i / width) * 2 * width + (i % width)
      return gated(x.data[a], x.data[a + width], r)
    })
  },
  samples: [[[3, 66]], [[2]], [[0, 4]], [[4, 0]], [[2, 3, 10]], [[1, 64]]],
  bench: [{ inputs: [[512, 4096]] }],
  errors: [
    { what: 'an odd last axis', call: () => swiglu(tensor([[1, 2, 3]])), code: 'ERR_SHAPE', text: ['swiglu', '[1, 3]'] },
    { what: 'integers', call: () => swiglu(tensor(new Int32Array(2))), code: 'ERR_DTYPE', text: ['swiglu', 'i32'] },
  ],
})

opCase({
  name: 'swiglu of two tensors',
  ops: ['swiglu', 'swiglu_backward'],
  run: ([a, b]) => swiglu(a, b),
  reference: ([a, b], _, r) => host(a.shape, (i) => gated(a.data[i], b.data[i], r)),
  samples: [[[3, 33], [3, 33]], [[], []], [[0, 4], [0, 4]]],
  bench: [{ inputs: [[512, 2048], [512, 2048]] }],
  errors: [
    {
      what: 'different shapes',
      call: () => swiglu(tensor([1, 2]), tensor([1])),
      code: 'ERR_SHAPE',
      text: ['swiglu', '[2]', '[1]'],
    },
  ],
})
