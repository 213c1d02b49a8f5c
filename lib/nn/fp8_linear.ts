// Linear layers in 8-bit floating formats: E4M3 for inputs and weights, E5M2 for gradients, one scale a tensor.
//   forward  y = (X W^T) / (s_x s_w) + b,  X and W the codes of s_x x and s_w w
//   backward dx = (G W) / (s_g s_w), dw = (G^T X) / (s_g s_x), G the codes of s_g dy
// GPUs from sm_89 on multiply the codes themselves (fp8_matmul). Elsewhere they become bf16, which holds them exactly; sums are
// f32 either way. What is kept for the backward pass is the codes, a byte a number. Scales bring the largest magnitude to the end of the format: that of the tensor
// itself ("current"), or the largest of the last steps ("delayed"), which is known beforehand.
// Source: Micikevicius et al., arXiv 2209.05433; delayed scaling by the rules of NVIDIA's Transformer Engine.
import { noGrad, record } from '../autograd/tape'
import { concat } from '../ops/concat'
import { cast } from '../ops/cast'
import { ones, zeros } from '../ops/creation'
import { abs, add, div, greater, maximum, minimum, mul } from '../ops/elementwise'
import { fp8Largest, fp8Matmul, fromFp8, toFp8, type Fp8Format } from '../ops/fp8'
import { matmul, type MatmulOptions } from '../ops/matmul'
import { transpose } from '../ops/permute'
import { max, sum } from '../ops/reductions'
import { reshape, rowsOf } from '../ops/reshape'
import { slice, writeSlice } from '../ops/slice'
import { where } from '../ops/where'
import { keep, scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import type { Linear } from './linear'
import { Module } from './module'
import { Constant } from './packed_weight'

const mostF32 = (2 - 2 ** -23) * 2 ** 127

/** max |x| as f32 [1]. */
const amaxOf = (x: Tensor): Tensor => (x.size ? reshape(cast(max(abs(x)), 'f32'), [1]) : zeros([1], { device: x.device }))

/**
 * The scale for numbers up to `amax` [1]: the format's largest / amax / 2^margin, at most the largest f32; `before` where amax
 * is 0 or not finite.
 */
export function scaleFor(amax: Tensor, before: Tensor, format: Fp8Format, margin = 0): Tensor {
  const number = (value: number) => tensor([value], [1], { device: amax.device })
  const fresh = minimum(div(number(fp8Largest[format] * 2 ** -margin), amax), number(mostF32))
  // NaN is not below infinity.
  return where(greater(amax, number(0)), where(greater(number(Infinity), amax), fresh, before), before)
}

export interface Fp8Options {
  /** 'delayed': from the largest magnitudes of the last steps. 'current': of the tensor itself, an extra pass over it. */
  scaling: 'delayed' | 'current'
  /** Steps that a delayed scale looks back. */
  history: number
  /** Powers of 2 that are left free above the largest magnitude. */
  margin: number
}

/** The scale of one tensor of a layer. */
export class Fp8Scale extends Module<[x: Tensor]> {
  /** Delayed: largest magnitudes of the last steps, the latest first, f32 [history]; 0 before there were any. */
  history: Constant | null = null
  /** Delayed: f32 [1]; 0 until the first step is done, which scales as 'current' does. */
  scale: Constant | null = null
  /** Largest magnitude of the present step. */
  private seen: Tensor | null = null

  constructor(
    readonly format: Fp8Format,
    private readonly options: Fp8Options,
    device: Tensor['device'],
  ) {
    super()
    if (options.scaling === 'current') return
    this.history = new Constant(zeros([options.history], { device }))
    this.scale = new Constant(zeros([1], { device }))
  }

  /** The scale for x, f32 [1]. */
  forward(x: Tensor): Tensor {
    const amax = amaxOf(x)
    const current = scaleFor(amax, ones([1], { device: x.device }), this.format, this.options.margin)
    if (!this.scale) return current
    if (this.training) {
      const largest = this.seen ? maximum(this.seen, amax) : amax
      this.seen?.dispose()
      this.seen = keep(largest.detach())
    }
    return where(greater(this.scale.tensor, tensor([0], [1], { device: x.device })), this.scale.tensor, current)
  }

  /** At the end of a step: its largest magnitude joins the history, from which the next scale is. */
  fold(): void {
    const { seen, history, scale, options } = this
    if (!seen || !history || !scale) return
    scope(() =>
      noGrad(() => {
        const kept = concat([seen, slice(history.tensor, [0], [options.history - 1])])
        writeSlice(history.tensor, kept, [0])
        writeSlice(scale.tensor, scaleFor(max(kept, null, { keepdims: true }), scale.tensor, this.format, options.margin), [0])
      }),
    )
    seen.dispose()
    this.seen = null
  }

  override dispose(): void {
    super.dispose()
    this.seen?.dispose()
  }
}

export interface Fp8Scales {
  input: Fp8Scale
  weight: Fp8Scale
  grad: Fp8Scale
}

interface Codes {
  codes: Tensor
  scale: Tensor
}

const encode = (x: Tensor, by: Fp8Scale): Codes => {
  const scale = by.call(x)
  return { codes: toFp8(x, by.format, { scale }), scale }
}

/** The product of two tensors of codes, divided by their scales; f32. */
function product(a: Codes, formatA: Fp8Format, b: Codes, formatB: Fp8Format, options: MatmulOptions): Tensor {
  const one = ones([1], { device: a.codes.device })
  const factors = [div(one, a.scale), div(one, b.scale)]
  if (a.codes.device.name.startsWith('cuda')) {
    const rows = options.transposeA ? transpose(a.codes) : a.codes
    const columns = options.transposeB ? b.codes : transpose(b.codes)
    return fp8Matmul({ codes: rows, format: formatA, factor: factors[0] }, { codes: columns, format: formatB, factor: factors[1] })
  }
  const sums = matmul(fromFp8(a.codes, formatA, 'bf16'), fromFp8(b.codes, formatB, 'bf16'), { ...options, outDType: 'f32' })
  // One after the other: the product of two large scales may be infinite.
  return mul(sums, mul(factors[0], factors[1]))
}

/** y = x W^T + bias (+ residual) in 8-bit formats, forward and backward. x [..., in], w [out, in]; f32, f16, bf16. */
export function fp8Linear(x: Tensor, w: Tensor, bias: Tensor | null, residual: Tensor | null, scales: Fp8Scales): Tensor {
  const shape = [...x.shape.slice(0, -1), w.shape[0]]
  const { input, weight } = noGrad(() => scope(() => ({ input: encode(rowsOf(x), scales.input), weight: encode(w, scales.weight) })))
  const out = scope(() =>
    noGrad(() => {
      const sums = product(input, 'e4m3', weight, 'e4m3', { transposeB: true })
      const y = cast(bias ? add(sums, cast(bias, 'f32')) : sums, x.dtype).viewAs(shape)
      return residual ? add(y, residual) : y
    }),
  )
  const { dtype } = x
  record('fp8_linear', [x, w, bias, residual], [out], [input.codes, input.scale, weight.codes, weight.scale], ([grad], saved, context) =>
    noGrad(() => {
      const [a, b] = [{ codes: saved[0], scale: saved[1] }, { codes: saved[2], scale: saved[3] }]
      const wide = rowsOf(cast(grad!, 'f32'))
      const g = encode(wide, scales.grad)
      const dx = context.needs(0) ? cast(product(g, 'e5m2', b, 'e4m3', {}), dtype).viewAs(x.shape) : null
      const dw = context.needs(1) ? product(g, 'e5m2', a, 'e4m3', { transposeA: true }) : null
      return [dx, dw, context.needs(2) ? sum(wide, [0]) : null, context.needs(3) ? grad : null]
    }),
  )
  return out
}

/** A layer's product through fp8Linear. */
export class Fp8Product extends Module<[x: Tensor, residual: Tensor | null, layer: Linear]> implements Fp8Scales {
  input: Fp8Scale
  weight: Fp8Scale
  grad: Fp8Scale

  constructor(layer: Linear, options: Fp8Options) {
    super()
    const { device } = layer.weight.tensor
    this.input = new Fp8Scale('e4m3', options, device)
    this.weight = new Fp8Scale('e4m3', options, device)
    this.grad = new Fp8Scale('e5m2', options, device)
  }

  forward(x: Tensor, residual: Tensor | null, layer: Linear): Tensor {
    return fp8Linear(x, layer.weight.value, layer.bias?.value ?? null, residual, this)
  }

  fold(): void {
    for (const scale of [this.input, this.weight, this.grad]) scale.fold()
  }
}
