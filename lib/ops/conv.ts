// Convolutions (cross-correlations, as in every deep learning library) by matrix products over unfolded patches.
//   out[n, o, y, x] = bias[o] + sum over (c, i, j) of weight[o, c, i, j] input[n, c, y stride + i dilation - padding, ...]
import { LeanformerError } from '../native/errors'
import { record } from '../autograd/tape'
import { run1, type Tensor } from '../tensor/tensor'
import { broadcastTo } from './broadcast'
import { add } from './elementwise'
import { matmul } from './matmul'
import { reshape } from './reshape'

/** A number for both axes, or [height, width]. */
export type Pair = number | readonly [number, number]

export interface UnfoldOptions {
  stride?: Pair
  padding?: Pair
  dilation?: Pair
}
export interface Conv2dOptions extends UnfoldOptions {
  /** Channels are cut into so many groups that do not see each other. */
  groups?: number
}
export interface Conv1dOptions {
  stride?: number
  padding?: number
  dilation?: number
  groups?: number
}

const pair = (value: Pair): number[] => (typeof value === 'number' ? [value, value] : [...value])

function windowOf(kernel: Pair, { stride = 1, padding = 0, dilation = 1 }: UnfoldOptions) {
  return { kernel: pair(kernel), stride: pair(stride), padding: pair(padding), dilation: pair(dilation) }
}

/**
 * Patches as columns (im2col): x [n, c, h, w] -> [n, c * kh * kw, places]; zeros stand for what lies outside.
 * f32, f16, bf16, f64. @throws ERR_SHAPE, ERR_DTYPE
 */
export function unfold(x: Tensor, kernel: Pair, options: UnfoldOptions = {}): Tensor {
  const window = windowOf(kernel, options)
  const out = run1('unfold', [x], window)
  const size = x.shape.slice(2)
  record('unfold', [x], [out], [], ([grad]) => [run1('fold', [grad], { ...window, size })])
  return out
}

/**
 * Columns added back into an image of `size` [h, w] (col2im), the transpose of unfold():
 * [n, c * kh * kw, places] -> [n, c, h, w].
 * @throws ERR_SHAPE, ERR_DTYPE
 */
export function fold(columns: Tensor, size: readonly [number, number], kernel: Pair, options: UnfoldOptions = {}): Tensor {
  const window = windowOf(kernel, options)
  const out = run1('fold', [columns], { ...window, size: [...size] })
  record('fold', [columns], [out], [], ([grad]) => [run1('unfold', [grad], window)])
  return out
}

function wrong(op: string, text: string, hint: string): never {
  throw new LeanformerError('ERR_SHAPE', `${op}: ${text}`, hint)
}
const shown = (x: Tensor) => `[${x.shape.join(', ')}]`

function check(op: string, x: Tensor, weight: Tensor, bias: Tensor | null | undefined, groups: number, rank: number): void {
  const layout = rank === 4 ? 'height, width' : 'length'
  if (x.rank !== rank || weight.rank !== rank) {
    wrong(op, `x has shape ${shown(x)} and weight ${shown(weight)}`, `x is [n, channels, ${layout}], weight [out, channels / groups, ${layout}]`)
  }
  if (!Number.isInteger(groups) || groups < 1 || x.shape[1] !== weight.shape[1] * groups || weight.shape[0] % groups !== 0) {
    wrong(op, `x ${shown(x)} and weight ${shown(weight)} do not suit ${groups} groups`, 'x has groups * weight.shape[1] channels, and groups divides weight.shape[0]')
  }
  if (bias && (bias.rank !== 1 || bias.shape[0] !== weight.shape[0])) {
    wrong(op, `bias has shape ${shown(bias)}, needs [${weight.shape[0]}]`, 'one number per output channel')
  }
}

/**
 * x [n, c, h, w], weight [out, c / groups, kh, kw], bias [out] or none -> [n, out, oh, ow] with
 * oh = floor((h + 2 padding - dilation (kh - 1) - 1) / stride) + 1. f32, f16, bf16 (sums in f32), f64.
 * @throws ERR_SHAPE, ERR_DTYPE
 */
export function conv2d(x: Tensor, weight: Tensor, bias?: Tensor | null, options: Conv2dOptions = {}): Tensor {
  return convolve('conv2d', x, weight, bias, options)
}

/** conv2d() of one axis: x [n, c, length], weight [out, c / groups, k], bias [out] or none -> [n, out, places]. */
export function conv1d(x: Tensor, weight: Tensor, bias?: Tensor | null, options: Conv1dOptions = {}): Tensor {
  const { stride = 1, padding = 0, dilation = 1, groups = 1 } = options
  check('conv1d', x, weight, bias, groups, 3)
  const flat = (t: Tensor) => reshape(t, [t.shape[0], t.shape[1], 1, t.shape[2]])
  const window = { stride: [1, stride], padding: [0, padding], dilation: [1, dilation], groups } as const
  const out = convolve('conv1d', flat(x), flat(weight), bias, window)
  return reshape(out, [out.shape[0], out.shape[1], out.shape[3]])
}

function convolve(op: string, x: Tensor, weight: Tensor, bias: Tensor | null | undefined, options: Conv2dOptions): Tensor {
  const { groups = 1 } = options
  check(op, x, weight, bias, groups, 4)
  const [n, channels, height, width] = x.shape
  const [outputs, perGroup, kh, kw] = weight.shape
  const { kernel, stride, padding, dilation } = windowOf([kh, kw], options)
  const places = [height, width].map((size, i) => Math.floor((size + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) / stride[i]) + 1)
  // A 1x1 window that moves by one reads the image as it is.
  const plain = [...kernel, ...stride].every((k) => k === 1) && padding.every((p) => p === 0)
  const columns = plain ? reshape(x, [n, channels, height * width]) : unfold(x, [kh, kw], options)
  const depth = perGroup * kh * kw
  let out: Tensor
  if (groups === 1) {
    out = matmul(reshape(weight, [outputs, depth]), columns)
  } else {
    // One product per image and group.
    const batch = [n, groups, outputs / groups, depth]
    const repeated = broadcastTo(reshape(weight, [1, groups, outputs / groups, depth]), batch)
    out = matmul(repeated, reshape(columns, [n, groups, depth, columns.shape[2]]))
  }
  const image = reshape(out, [n, outputs, ...places])
  return bias ? add(image, reshape(bias, [outputs, 1, 1])) : image
}
