// Post-training quantisation: the matrices of a trained model in 8 or 4 bits (nn/int_weight.ts), by row or by group, plain
// or with scales calibrated on some batches; gptq.ts corrects its errors besides. Weights alone: activations stay as they are; the functions at the end round
// activations too, for judging what an integer product would give.
// Source: Wu et al., arXiv 2004.09602; SmoothQuant: Xiao et al., arXiv 2211.10438.
import { noGrad } from '../autograd/tape'
import { IntWeight, roundEven, type IntOptions } from '../nn/int_weight'
import type { Linear } from '../nn/linear'
import { linearTargets, partNames } from '../nn/linear_parts'
import { Module } from '../nn/module'
import { abs, div, maximum, mul, scale, sqrt, square } from '../ops/elementwise'
import { max, mean } from '../ops/reductions'
import { rowsOf } from '../ops/reshape'
import { accumulate } from '../ops/accumulate'
import { keep, scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'

export interface QuantiseOptions extends Omit<IntOptions, 'importance'> {
  /** Runs the model on representative inputs: then scales minimise the error of the outputs. */
  calibrate?: () => void
}

/** Watches what a layer is given: the mean square of each input. */
class Watch extends Module<[x: Tensor, residual: Tensor | null, layer: Linear]> {
  private total: Tensor | null = null
  private calls = 0

  forward(x: Tensor, residual: Tensor | null, layer: Linear): Tensor {
    const squares = mean(square(rowsOf(x)), [0])
    if (this.total) accumulate(this.total, squares)
    else this.total = keep(squares)
    this.calls++
    return layer.product(x, residual)
  }

  get importance(): Tensor | null {
    return this.total && scale(this.total, 1 / this.calls)
  }

  override dispose(): void {
    this.total?.dispose()
  }
}

/** The matrices of attention and feed-forward that are not packed yet. */
export function hiddenMatrices(model: Module<never, unknown>): Linear[] {
  return linearTargets(model)
    .filter(({ layer, parts }) => !layer.packed && parts.every(({ name }) => (partNames as readonly string[]).includes(name)))
    .map(({ layer }) => layer)
}

/** Puts all matrices of attention and feed-forward in few bits; embeddings and heads stay. Returns their bytes before and after. */
export function quantise(model: Module<never, unknown>, { calibrate, ...options }: QuantiseOptions): { before: number; after: number } {
  const watches = hiddenMatrices(model).map((layer) => {
    const own = layer.adapter
    const watch = new Watch()
    if (calibrate) layer.adapter = watch
    return { layer, own, watch }
  })
  if (calibrate) noGrad(() => scope(calibrate))
  const bytes = { before: 0, after: 0 }
  for (const { layer, own, watch } of watches) {
    layer.adapter = own
    scope(() => {
      bytes.before += 4 * layer.weight.tensor.size
      layer.pack(new IntWeight(layer.weight.tensor, { ...options, importance: noGrad(() => watch.importance) }))
      bytes.after += layer.packed!.bytes
    })
    watch.dispose()
  }
  return bytes
}

/** x [rows, n] rounded to 8 bits with one scale in all, or one for each row ("per token"). */
export function roundActivations(x: Tensor, per: 'tensor' | 'token'): Tensor {
  const largest = max(abs(x), per === 'token' ? [1] : null, { keepdims: true })
  const step = scale(maximum(largest, tensor(1e-30, null, { device: x.device })), 1 / 127)
  return mul(roundEven(div(x, step)), step)
}

/** SmoothQuant's factors of the columns, sqrt(max |x_j| / max |w_j|): x is divided by them, w multiplied. */
export function smoothingFactors(x: Tensor, weight: Tensor): Tensor {
  const largest = (t: Tensor) => max(abs(t), [0], { keepdims: true })
  return sqrt(div(largest(x), largest(weight)))
}
