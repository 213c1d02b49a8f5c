// linear, feedForward: products with their bias, activation and residual inside.
import { feedForward, linear } from '../../lib/ops/linear'
import { zeros } from '../../lib/ops/creation'
import { awayFromZero, host, opCase, type HostTensor, type Rounding } from '../support/op_case'
import { erf } from '../support/reference'

function product(x: HostTensor, w: HostTensor, r: Rounding): Float64Array {
  const [n, k] = w.shape
  const rows = k ? x.data.length / k : 0
  const out = new Float64Array(rows * n)
  for (let i = 0; i < rows; ++i) {
    for (let j = 0; j < n; ++j) {
      let sum = 0
      for (let c = 0; c < k; ++c) sum = r(sum + r(x.data[i * k + c] * w.data[j * k + c]))
      out[i * n + j] = sum
    }
  }
  return out
}

opCase({
  name: 'linear',
  ops: ['matmul'],
  run: ([x, w, b, residual]) => linear(x, w, b, residual),
  reference: ([x, w, b, residual], _, r) => {
    const n = w.shape[0]
    const y = product(x, w, r)
    return host([...x.shape.slice(0, -1), n], (i) => {
      const t = b ? r(y[i] + b.data[i % n]) : y[i]
      return residual ? r(t + residual.data[i]) : t
    })
  },
  errorScale: 'tensor',
  samples: [
    [[5, 7], [3, 7], [3], null],
    [[2, 3, 33], [17, 33], null, [2, 3, 17]],
    [[37, 19], [40, 19], [40], [37, 40]],
    [[1, 70], [9, 70], [9], null],
    [[0, 4], [3, 4], [3], null],
    [[4], [2, 4], [2], null],
  ],
  gradTolerance: { bf16: 0.05, f16: 0.01 },
  bench: [
    { inputs: [[2048, 384], [1536, 384], [1536], null] },
    { inputs: [[768, 128], [384, 128], [384], null] },
  ],
  errors: [
    { what: 'a wrong width', call: () => linear(zeros([2, 3]), zeros([4, 5])), code: 'ERR_SHAPE', text: ['linear', '[2, 3]', '[4, 5]'] },
    { what: 'a wrong bias', call: () => linear(zeros([2, 3]), zeros([4, 3]), zeros([5])), code: 'ERR_SHAPE', text: ['bias', '[5]', '[4]'] },
    { what: 'two dtypes', call: () => linear(zeros([2, 3]), zeros([4, 3], { dtype: 'f64' })), code: 'ERR_DTYPE', text: ['f32', 'f64'] },
  ],
})

const activations = {
  gelu: (x: number, r: Rounding) => {
    const u = r(0.7978845608028654 * r(x + r(0.044715 * r(r(x * x) * x))))
    return r(r(0.5 * x) * r(1 + r(Math.tanh(u))))
  },
  gelu_exact: (x: number, r: Rounding) => r(r(0.5 * x) * r(1 + r(erf(r(x * Math.SQRT1_2))))),
  silu: (x: number, r: Rounding) => r(x * r(1 / r(1 + r(Math.exp(-x))))),
  relu: (x: number) => Math.max(0, x),
}

for (const activation of ['gelu', 'gelu_exact', 'silu', 'relu'] as const) {
  opCase({
    name: `feedForward with ${activation}`,
    ops: ['matmul'],
    run: ([x, up, upBias, down, downBias, residual]) => feedForward(x, { up, upBias, down, downBias }, activation, residual),
    reference: ([x, up, upBias, down, downBias, residual], _, r) => {
      const hidden = up.shape[0]
      const pre = product(x, up, r).map((t, i) => r(upBias ? t + upBias.data[i % hidden] : t))
      const h = host([pre.length / hidden, hidden], (i) => r.store(activations[activation](pre[i], r)))
      const y = product(h, down, r)
      const n = down.shape[0]
      return host([...x.shape.slice(0, -1), n], (i) => {
        const t = downBias ? r(y[i] + downBias.data[i % n]) : y[i]
        return residual ? r(t + residual.data[i]) : t
      })
    },
    errorScale: 'tensor',
    samples: [
      // relu has a kink at 0: a bias far from it keeps the hidden layer away.
      [[6, 5], [8, 5], { shape: [8], values: (random, i) => 20 * awayFromZero(1)(random, i) }, [3, 8], [3], [6, 3]],
      [[2, 3, 9], [33, 9], { shape: [33], values: (random, i) => 30 * awayFromZero(1)(random, i) }, [9, 33], null, null],
    ],
    gradTolerance: { bf16: 0.1, f16: 0.02 },
    bench: activation === 'gelu' ? [{ inputs: [[2048, 384], [1536, 384], [1536], [384, 1536], [384], [2048, 384]] }] : [],
  })
}
