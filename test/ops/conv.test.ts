// unfold, fold, conv2d, conv1d.
import { conv1d, conv2d, fold, unfold, type Conv2dOptions, type Pair } from '../../lib/ops/conv'
import { tensor } from '../../lib/tensor/tensor'
import { host, opCase, type HostTensor, type Rounding } from '../support/op_case'
import { unravel } from '../support/reference'

interface Window extends Conv2dOptions {
  kernel: [number, number]
  size?: [number, number]
}

const both = (value: Pair | undefined, fallback: number) => (typeof value === 'object' ? value : [value ?? fallback, value ?? fallback])
function geometry(size: readonly number[], { kernel, ...window }: Window) {
  const stride = both(window.stride, 1)
  const padding = both(window.padding, 0)
  const dilation = both(window.dilation, 1)
  const places = size.map((d, i) => Math.floor((d + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) / stride[i]) + 1)
  /** The position in the image of a tap of a place, -1 outside. */
  const at = (place: number[], tap: number[]) => {
    const [y, x] = place.map((p, i) => p * stride[i] + tap[i] * dilation[i] - padding[i])
    return y >= 0 && y < size[0] && x >= 0 && x < size[1] ? y * size[1] + x : -1
  }
  return { places, at }
}

function unfolded(x: HostTensor, window: Window): HostTensor {
  const [n, c, h, w] = x.shape
  const { places, at } = geometry([h, w], window)
  const full = [n, c, ...window.kernel, ...places]
  return host([n, c * window.kernel[0] * window.kernel[1], places[0] * places[1]], (flat) => {
    const [image, channel, i, j, y, z] = unravel(flat, full)
    const from = at([y, z], [i, j])
    return from < 0 ? 0 : x.data[(image * c + channel) * h * w + from]
  })
}

function folded(columns: HostTensor, window: Window): HostTensor {
  const size = window.size!
  const { places, at } = geometry(size, window)
  const c = columns.shape[1] / (window.kernel[0] * window.kernel[1])
  const out = host([columns.shape[0], c, ...size], () => 0)
  columns.data.forEach((value, flat) => {
    const [image, channel, i, j, y, z] = unravel(flat, [columns.shape[0], c, ...window.kernel, ...places])
    const to = at([y, z], [i, j])
    if (to >= 0) out.data[(image * c + channel) * size[0] * size[1] + to] += value
  })
  return out
}

function convolved([x, weight, bias]: HostTensor[], window: Window, r: Rounding): HostTensor {
  const { groups = 1 } = window
  const columns = unfolded(x, window)
  const [n, , places] = columns.shape
  const [outputs, ...rest] = weight.shape
  const depth = rest.reduce((a, b) => a * b, 1)
  return host([n, outputs, ...geometry(x.shape.slice(2), window).places], (flat) => {
    const [image, o, place] = unravel(flat, [n, outputs, places])
    let sum = 0
    const first = Math.floor(o / (outputs / groups)) * depth
    const column = (k: number) => columns.data[(image * depth * groups + first + k) * places + place]
    for (let k = 0; k < depth; ++k) sum = r(sum + r(weight.data[o * depth + k] * column(k)))
    return bias ? r(r.store(sum) + bias.data[o]) : sum
  })
}

const windows: { inputs: number[][]; attrs: Window }[] = [
  { inputs: [[2, 3, 5, 6]], attrs: { kernel: [3, 3] } },
  { inputs: [[1, 2, 7, 33]], attrs: { kernel: [3, 3], padding: 1 } },
  { inputs: [[2, 1, 8, 9]], attrs: { kernel: [2, 3], stride: [2, 3], padding: [1, 2] } },
  { inputs: [[1, 2, 9, 8]], attrs: { kernel: [3, 2], dilation: [2, 3], padding: 2, stride: 2 } },
  { inputs: [[1, 1, 2, 2]], attrs: { kernel: [1, 1], padding: 3 } },
  { inputs: [[1, 1, 1, 1]], attrs: { kernel: [3, 3], padding: 4, stride: 2 } },
  { inputs: [[0, 2, 4, 4]], attrs: { kernel: [2, 2] } },
]
const image = tensor(new Float32Array(8), [1, 2, 2, 2])

opCase<Window>({
  name: 'unfold',
  ops: ['unfold', 'fold'],
  run: ([x], { kernel, ...options }) => unfold(x, kernel, options),
  reference: ([x], window) => unfolded(x, window),
  samples: windows,
  gradTolerance: { f32: 1e-5 },
  bench: [{ inputs: [[8, 64, 56, 56]], attrs: { kernel: [3, 3], padding: 1 } }],
  errors: [
    { what: 'window', call: () => unfold(image, 3), code: 'ERR_SHAPE', text: ['unfold', 'kernel 3', '2 elements'] },
    { what: 'stride', call: () => unfold(image, 1, { stride: 0 }), code: 'ERR_SHAPE', text: ['unfold', 'stride 0'] },
    { what: 'rank', call: () => unfold(tensor([1]), 1), code: 'ERR_SHAPE', text: ['unfold', '[1]'] },
    { what: 'dtype', call: () => unfold(tensor(new Int32Array(1), [1, 1, 1, 1]), 1), code: 'ERR_DTYPE', text: ['unfold', 'i32'] },
  ],
})

opCase<Window>({
  name: 'fold',
  ops: ['fold', 'unfold'],
  run: ([columns], { kernel, size, ...options }) => fold(columns, size!, kernel, options),
  reference: ([columns], window) => folded(columns, window),
  errorScale: 'tensor',
  samples: [
    { inputs: [[2, 27, 12]], attrs: { kernel: [3, 3], size: [5, 6] } },
    { inputs: [[1, 6, 12]], attrs: { kernel: [3, 2], size: [7, 8], stride: 2, padding: [1, 0], dilation: [2, 1] } },
    { inputs: [[1, 0, 9]], attrs: { kernel: [2, 2], size: [4, 4] } },
  ].map((sample) => sample as { inputs: number[][]; attrs: Window }),
  errors: [
    { what: 'columns', call: () => fold(tensor(new Float32Array(8), [1, 4, 2]), [2, 2], 2), code: 'ERR_SHAPE', text: ['fold', '[1, 4, 2]', 'c * 4, 1'] },
  ],
})

opCase<Window>({
  name: 'conv2d',
  ops: ['unfold', 'fold', 'matmul', 'add'],
  run: ([x, weight, bias], { kernel: _, ...options }) => conv2d(x, weight, bias, options),
  reference: convolved,
  errorScale: 'tensor',
  gradTolerance: { f32: 1e-4, f16: 3e-2, bf16: 0.2 },
  samples: [
    { inputs: [[2, 3, 5, 6], [4, 3, 3, 3], [4]], attrs: { kernel: [3, 3], padding: 1 } },
    { inputs: [[2, 3, 5, 6], [4, 3, 1, 1], null], attrs: { kernel: [1, 1] } },
    { inputs: [[2, 3, 5, 6], [4, 3, 1, 1], [4]], attrs: { kernel: [1, 1], stride: 2 } },
    { inputs: [[2, 4, 7, 6], [6, 2, 3, 2], [6]], attrs: { kernel: [3, 2], groups: 2, stride: [2, 1], dilation: [1, 2] } },
    { inputs: [[2, 3, 4, 4], [3, 1, 3, 3], null], attrs: { kernel: [3, 3], groups: 3, padding: 1 } },
    { inputs: [[1, 1, 4, 4], [2, 1, 2, 2], [2]], attrs: { kernel: [2, 2] } },
  ],
  bench: [{ inputs: [[4, 64, 28, 28], [64, 64, 3, 3], [64]], attrs: { kernel: [3, 3], padding: 1 } }],
  errors: [
    { what: 'channels', call: () => conv2d(image, tensor([1], [1, 1, 1, 1])), code: 'ERR_SHAPE', text: ['conv2d', '[1, 2, 2, 2]', '1 groups'] },
    { what: 'ranks', call: () => conv2d(image, tensor([1])), code: 'ERR_SHAPE', text: ['conv2d', '[1]'] },
    { what: 'bias', call: () => conv2d(image, tensor([1, 2], [1, 2, 1, 1]), tensor([1, 2])), code: 'ERR_SHAPE', text: ['conv2d', 'bias', '[2]'] },
  ],
})

opCase<Conv2dOptions & { stride?: number; padding?: number; dilation?: number }>({
  name: 'conv1d',
  ops: ['unfold', 'fold', 'matmul'],
  run: ([x, weight, bias], options) => conv1d(x, weight, bias, options),
  reference: ([x, weight, bias], { stride = 1, padding = 0, dilation = 1, groups }, r) => {
    const flat = (t: HostTensor) => ({ ...t, shape: [t.shape[0], t.shape[1], 1, t.shape[2]] })
    const out = convolved([flat(x), flat(weight), bias], {
      kernel: [1, weight.shape[2]],
      stride: [1, stride],
      padding: [0, padding],
      dilation: [1, dilation],
      groups,
    }, r)
    return { ...out, shape: [out.shape[0], out.shape[1], out.shape[3]] }
  },
  errorScale: 'tensor',
  gradTolerance: { f32: 1e-4, f16: 3e-2, bf16: 0.2 },
  samples: [
    { inputs: [[2, 3, 33], [5, 3, 4], [5]], attrs: { padding: 3 } },
    { inputs: [[1, 2, 20], [4, 1, 3], null], attrs: { groups: 2, stride: 2, dilation: 3 } },
  ],
  errors: [{ what: 'rank', call: () => conv1d(image, tensor([1], [1, 1, 1])), code: 'ERR_SHAPE', text: ['conv1d', '[1, 2, 2, 2]'] }],
})
