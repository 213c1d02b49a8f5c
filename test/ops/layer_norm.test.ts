// layerNorm and rmsNorm.
import { layerNorm } from '../../lib/ops/layer_norm'
import { rmsNorm } from '../../lib/ops/rms_norm'
import { zeros } from '../../lib/ops/creation'
import { host, opCase, type HostTensor, type Rounding } from '../support/op_case'

function normalized(x: HostTensor, w: HostTensor | null, b: HostTensor | null, rms: boolean, r: Rounding): HostTensor {
  const width = x.shape[x.shape.length - 1]
  const rows = width ? x.data.length / width : 0
  const out = new Float64Array(x.data.length)
  for (let row = 0; row < rows; ++row) {
    const at = row * width
    let mean = 0
    if (!rms) {
      for (let i = 0; i < width; ++i) mean = r(mean + x.data[at + i])
      mean = r(mean / width)
    }
    let square = 0
    for (let i = 0; i < width; ++i) square = r(square + r(r(x.data[at + i] - mean) ** 2))
    const rstd = r(1 / r(Math.sqrt(r(r(square / width) + 1e-5))))
    for (let i = 0; i < width; ++i) {
      const n = r(r(x.data[at + i] - mean) * rstd)
      const scaled = w ? r(n * w.data[i]) : n
      out[at + i] = b ? r(scaled + b.data[i]) : scaled
    }
  }
  return host(x.shape, out)
}

const samples = (bias: boolean) => {
  const of = (shape: number[], width: number) => (bias ? [shape, [width], [width]] : [shape, [width]])
  return [of([3, 8], 8), of([2, 5, 33], 33), of([100, 20], 20), of([7], 7), of([0, 4], 4), of([300, 5], 5)]
}

opCase({
  name: 'layerNorm',
  ops: ['layer_norm', 'layer_norm_backward'],
  run: ([x, w, b]) => layerNorm(x, w, b),
  reference: ([x, w, b], _, r) => normalized(x, w, b, false, r),
  errorScale: 'tensor',
  samples: [...samples(true), [[4, 12], null, null], [[4, 12], [12], null]],
  gradTolerance: { bf16: 0.05, f16: 0.01 },
  bench: [{ inputs: [[2048, 384], [384], [384]] }],
  errors: [
    { what: 'a wrong weight', call: () => layerNorm(zeros([2, 3]), zeros([4])), code: 'ERR_SHAPE', text: ['layer_norm', 'weight', '[4]', '[3]'] },
    { what: 'integers', call: () => layerNorm(zeros([2, 3], { dtype: 'i32' })), code: 'ERR_DTYPE', text: ['layer_norm', 'i32'] },
  ],
})

opCase({
  name: 'rmsNorm',
  ops: ['rms_norm', 'rms_norm_backward'],
  run: ([x, w]) => rmsNorm(x, w),
  reference: ([x, w], _, r) => normalized(x, w, null, true, r),
  errorScale: 'tensor',
  samples: [...samples(false), [[4, 12], null]],
  gradTolerance: { bf16: 0.05, f16: 0.01 },
  bench: [{ inputs: [[2048, 384], [384]] }],
  errors: [{ what: 'a scalar', call: () => rmsNorm(zeros([])), code: 'ERR_SHAPE', text: ['rms_norm', '[]'] }],
})
