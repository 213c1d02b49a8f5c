// softmax, logSoftmax, crossEntropy and the fused head with its cross-entropy.
import { crossEntropy, type CrossEntropyOptions } from '../../lib/ops/cross_entropy'
import { linear } from '../../lib/ops/linear'
import { linearCrossEntropy, type LinearCrossEntropyOptions } from '../../lib/ops/linear_cross_entropy'
import { logSoftmax, softmax } from '../../lib/ops/softmax'
import { zeros } from '../../lib/ops/creation'
import { getDevice } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { host, integers, jestOnly, opCase, type HostTensor, type Rounding } from '../support/op_case'

function alongAxis(x: HostTensor, axis: number, f: (row: number[]) => number[]): HostTensor {
  const at = axis < 0 ? axis + x.shape.length : axis
  const n = x.shape[at]
  const inner = x.shape.slice(at + 1).reduce((a, b) => a * b, 1)
  const out = new Float64Array(x.data.length)
  for (let row = 0; n > 0 && row < x.data.length / n; ++row) {
    const first = Math.floor(row / inner) * n * inner + (row % inner)
    f(Array.from({ length: n }, (_, i) => x.data[first + i * inner])).forEach((y, i) => (out[first + i * inner] = y))
  }
  return host(x.shape, out)
}

function logSum(row: number[], r: Rounding): { highest: number; exps: number[]; sum: number } {
  const highest = Math.max(...row)
  const exps = row.map((x) => r(Math.exp(r(x - highest))))
  return { highest, exps, sum: exps.reduce((a, b) => r(a + b), 0) }
}

const samples = [
  { inputs: [[3, 5]], attrs: { axis: -1 } },
  { inputs: [[2, 33, 4]], attrs: { axis: 1 } },
  { inputs: [[17]], attrs: { axis: 0 } },
  { inputs: [[0, 3]], attrs: { axis: -1 } },
  { inputs: [[4, 1]], attrs: { axis: -1 } },
  { inputs: [[3, 100]], attrs: { axis: -1 } },
]

opCase<{ axis: number }>({
  name: 'softmax',
  ops: ['softmax', 'softmax_backward'],
  run: ([x], { axis }) => softmax(x, axis),
  reference: ([x], { axis }, r) =>
    alongAxis(x, axis, (row) => {
      const { exps, sum } = logSum(row, r)
      return exps.map((e) => r(e / sum))
    }),
  samples,
  errorScale: 'tensor',
  gradTolerance: { bf16: 0.05, f16: 0.01 },
  bench: [{ inputs: [[2048, 1024]], attrs: { axis: -1 } }],
  errors: [
    { what: 'an axis out of range', call: () => softmax(zeros([2, 8, 64]), 3), code: 'ERR_SHAPE', text: ['softmax: axis 3 is out of range for shape [2, 8, 64]'] },
  ],
})

opCase<{ axis: number }>({
  name: 'logSoftmax',
  ops: ['log_softmax', 'log_softmax_backward'],
  run: ([x], { axis }) => logSoftmax(x, axis),
  reference: ([x], { axis }, r) =>
    alongAxis(x, axis, (row) => {
      const { highest, sum } = logSum(row, r)
      const shift = r(highest + r(Math.log(sum)))
      return row.map((v) => r(v - shift))
    }),
  samples,
  errorScale: 'tensor',
  gradTolerance: { bf16: 0.1, f16: 0.02 },
  bench: [{ inputs: [[2048, 1024]], attrs: { axis: -1 } }],
})

/** Losses of rows of logits. */
function rowLosses(z: HostTensor, targets: HostTensor, smoothing: number, ignore: number, r: Rounding): number[] {
  const classes = z.shape[z.shape.length - 1]
  return Array.from(targets.data, (target, i) => {
    if (target === ignore) return 0
    const row = Array.from(z.data.slice(i * classes, (i + 1) * classes))
    const { highest, sum } = logSum(row, r)
    const total = r(highest + r(Math.log(sum)))
    const mean = r(row.reduce((a, b) => r(a + b), 0) / classes)
    return r(r((1 - smoothing) * r(total - row[target])) + r(smoothing * r(total - mean)))
  })
}

const targetsOf = (shape: number[], classes: number, lowest = -1) => ({
  shape,
  dtype: 'i32' as const,
  values: integers(lowest, classes),
})
const f32OrF64 = (tested: string) => (tested === 'f64' ? ('f64' as const) : ('f32' as const))

opCase<CrossEntropyOptions>({
  name: 'crossEntropy',
  ops: ['cross_entropy', 'cross_entropy_backward'],
  run: ([logits, targets], options) => crossEntropy(logits, targets, options),
  reference: ([z, targets], { labelSmoothing = 0, ignoreIndex = -1, reduction = 'mean' }, r) => {
    const losses = rowLosses(z, targets, labelSmoothing, ignoreIndex, r)
    if (reduction === 'none') return host(targets.shape, losses)
    const counted = Math.max(1, targets.data.filter((t) => t !== ignoreIndex).length)
    return host([], [losses.reduce((a, b) => a + b, 0) / (reduction === 'mean' ? counted : 1)])
  },
  outDTypes: f32OrF64,
  errorScale: 'tensor',
  samples: [
    { inputs: [[6, 5], targetsOf([6], 5)], attrs: {} },
    { inputs: [[2, 3, 33], targetsOf([2, 3], 33)], attrs: { labelSmoothing: 0.1 } },
    { inputs: [[7, 4], targetsOf([7], 4, 0)], attrs: { reduction: 'none', ignoreIndex: 2 } },
    { inputs: [[9, 20], targetsOf([9], 20)], attrs: { reduction: 'sum', labelSmoothing: 0.2 } },
    { inputs: [[2, 3], { shape: [2], dtype: 'i32', values: [-1, -1] }], attrs: {} },
  ],
  gradTolerance: { bf16: 0.05, f16: 0.01 },
  bench: [{ inputs: [[2048, 1024], targetsOf([2048], 1024)], attrs: {} }],
})

opCase<LinearCrossEntropyOptions>({
  name: 'linearCrossEntropy',
  ops: ['linear_cross_entropy'],
  run: ([x, w, targets, bias], options) => linearCrossEntropy(x, w, targets, { ...options, bias }),
  reference: ([x, w, targets, bias], { labelSmoothing = 0, ignoreIndex = -1, scale = 0 }, r) => {
    const [classes, width] = w.shape
    const z = host([targets.data.length, classes], (flat) => {
      let sum = 0
      for (let c = 0; c < width; ++c) {
        sum = r(sum + r(x.data[Math.floor(flat / classes) * width + c] * w.data[(flat % classes) * width + c]))
      }
      return bias ? r(sum + bias.data[flat % classes]) : sum
    })
    const counted = Math.max(1, targets.data.filter((t) => t !== ignoreIndex).length)
    const sum = rowLosses(z, targets, labelSmoothing, ignoreIndex, r).reduce((a, b) => a + b, 0)
    return host([], [sum * (scale || 1 / counted)])
  },
  outDTypes: f32OrF64,
  errorScale: 'tensor',
  samples: [
    { inputs: [[6, 4], [5, 4], targetsOf([6], 5)], attrs: {} },
    { inputs: [[2, 3, 9], [33, 9], targetsOf([2, 3], 33)], attrs: { labelSmoothing: 0.1 } },
    { inputs: [[7, 8], [4, 8], targetsOf([7], 4, 0)], attrs: { ignoreIndex: 2, scale: 0.25 } },
    { inputs: [[2, 3], [4, 3], { shape: [2], dtype: 'i32', values: [-1, -1] }], attrs: {} },
    { inputs: [[6, 4], [5, 4], targetsOf([6], 5), [5]], attrs: { labelSmoothing: 0.1 } },
    { inputs: [[3, 8], [70, 8], targetsOf([3], 70), [70]], attrs: {} },
  ],
  // The gradient of the logits is rounded to 16 bits before the products with it.
  gradTolerance: { bf16: 0.05, f16: 0.01 },
  bench: [{ inputs: [[2048, 384], [256, 384], targetsOf([2048], 256)], attrs: {} }],
  errors: [
    {
      what: 'widths that differ',
      call: () => linearCrossEntropy(zeros([2, 3]), zeros([5, 4]), tensor(new Int32Array(2))),
      code: 'ERR_SHAPE',
      text: ['linear_cross_entropy', '[2, 3]', '[5, 4]'],
    },
    {
      what: 'a bias for another vocabulary',
      call: () => linearCrossEntropy(zeros([2, 3]), zeros([5, 3]), tensor(new Int32Array(2)), { bias: zeros([4]) }),
      code: 'ERR_SHAPE',
      text: ['linear_cross_entropy', '[4]', '[5, 3]'],
    },
  ],
})

jestOnly(() => {
  test('many chunks of tokens give what one product gives', async () => {
    // 40,000 classes leave room for about 50 rows of logits at a time.
    const [rows, width, classes] = [130, 8, 40_000]
    const values = (n: number, k: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(i * k))
    const [fused, plain] = scope(() => {
      const x = tensor(values(rows * width, 1.7), [rows, width])
      const w = tensor(values(classes * width, 0.3), [classes, width])
      const bias = tensor(values(classes, 0.7), null)
      const t = tensor(Int32Array.from({ length: rows }, (_, i) => (i * 7919) % classes), [rows])
      return [linearCrossEntropy(x, w, t, { bias }), crossEntropy(linear(x, w, bias), t)]
    })
    expect(Math.abs((await fused.item()) / (await plain.item()) - 1)).toBeLessThan(1e-6)
  })

  test('a target outside the classes fails the stream by name, and the device works on', async () => {
    const device = getDevice()
    const loss = scope(() => crossEntropy(zeros([2, 3]), tensor(new Int32Array([0, 3]), [2])))
    await expect(loss.item()).rejects.toMatchObject({ code: 'ERR_KERNEL', message: expect.stringContaining('target 3 at position 1') })
    device.clearError()
    expect(await scope(() => crossEntropy(zeros([2, 3]), tensor(new Int32Array([0, 2]), [2]))).item()).toBeCloseTo(Math.log(3))
  })
})
