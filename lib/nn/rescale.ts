// IA3: trained factors, 1 at first, on the outputs of a layer (keys and values) or on its inputs (the last product of a
// feed-forward layer): y = l_out (W (l_in x) + b). Source: Liu et al., arXiv 2205.05638.
import { noGrad } from '../autograd/tape'
import { cast } from '../ops/cast'
import { concat } from '../ops/concat'
import { ones } from '../ops/creation'
import { add, div, mul } from '../ops/elementwise'
import { reshape } from '../ops/reshape'
import { scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import type { Linear } from './linear'
import type { LinearPart } from './linear_parts'
import { Module } from './module'
import { Parameter } from './parameter'

/** The factors of one matrix: of its outputs, [rows], or of its inputs, [in]. */
export class RescalePart extends Module<[]> {
  factors: Parameter

  constructor(
    readonly rows: LinearPart,
    readonly ofInputs: boolean,
    layer: Linear,
  ) {
    super()
    const { device, dtype } = (layer.packed ? layer.packed.parameters()[0] : layer.weight).tensor
    const count = ofInputs ? layer.shape[1] : rows.to - rows.from
    this.factors = new Parameter(ones([count], { device, dtype: dtype === 'f64' ? 'f64' : 'f32' }))
  }

  forward(): Tensor {
    return this.factors.value
  }
}

export class Rescale extends Module<[x: Tensor, residual: Tensor | null, layer: Linear]> {
  parts: RescalePart[]
  merged = false

  constructor(layer: Linear, rows: readonly LinearPart[], ofInputs: (part: LinearPart) => boolean) {
    super()
    this.parts = rows.map((part) => new RescalePart(part, ofInputs(part), layer))
  }

  forward(x: Tensor, residual: Tensor | null, layer: Linear): Tensor {
    if (this.merged) return layer.product(x, residual)
    const input = this.parts.find((part) => part.ofInputs)
    const output = this.outputFactors(layer)
    const y = layer.product(input ? mul(x, cast(input.call(), x.dtype)) : x, output ? null : residual)
    if (!output) return y
    const scaled = mul(y, cast(output, y.dtype))
    return residual ? add(scaled, residual) : scaled
  }

  /** Writes the factors into the layer's weight and bias. */
  merge(layer: Linear): void {
    if (!this.merged) this.apply(layer, mul)
    this.merged = true
  }

  /** Divides them out again: exact but for rounding, impossible where a factor became 0. */
  unmerge(layer: Linear): void {
    if (this.merged) this.apply(layer, div)
    this.merged = false
  }

  private apply(layer: Linear, f: (x: Tensor, factors: Tensor) => Tensor): void {
    scope(() =>
      noGrad(() => {
        const input = this.parts.find((part) => part.ofInputs)
        if (input) layer.weight.set(f(layer.weight.tensor, reshape(input.factors.tensor, [1, input.factors.tensor.size])))
        const output = this.outputFactors(layer)
        if (!output) return
        layer.weight.set(f(layer.weight.tensor, reshape(output, [output.size, 1])))
        if (layer.bias) layer.bias.set(f(layer.bias.tensor, output))
      }),
    )
  }

  /** [out], 1 where no part is; null when no part is of outputs. */
  private outputFactors(layer: Linear): Tensor | null {
    const outputs = this.parts.filter((part) => !part.ofInputs)
    if (!outputs.length) return null
    const { device, dtype } = outputs[0].factors.tensor
    const pieces: Tensor[] = []
    let at = 0
    for (const { rows, factors } of outputs) {
      if (rows.from > at) pieces.push(ones([rows.from - at], { device, dtype }))
      pieces.push(factors.value)
      at = rows.to
    }
    if (layer.shape[0] > at) pieces.push(ones([layer.shape[0] - at], { device, dtype }))
    return pieces.length === 1 ? pieces[0] : concat(pieces, 0)
  }
}
