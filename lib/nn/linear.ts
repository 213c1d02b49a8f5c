// Fully connected layer: y = x W^T + b. Techniques may put an adapter around the product, or the weight in few bits in
// its place.
import { gpt2Normal } from '../init/gpt2'
import { zeros } from '../ops/creation'
import type { Initializer } from '../init/initializer'
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import { indexSelect } from '../ops/gather'
import { linear } from '../ops/linear'
import { scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import { Module, type ModuleOptions } from './module'
import type { PackedWeight } from './packed_weight'
import { Parameter } from './parameter'

export interface LinearOptions extends ModuleOptions {
  bias?: boolean
  /** How the weight starts; default normal with standard deviation 0.02. The bias starts at 0. */
  init?: Initializer
}

/** What stands between a layer's input and its product: x, residual and the layer -> the layer's result. */
export type LinearAdapter = Module<[x: Tensor, residual: Tensor | null, layer: Linear]>

export class Linear extends Module<[x: Tensor, residual?: Tensor | null]> {
  weight: Parameter
  bias: Parameter | null
  /** Computes the layer from its product(), where a technique put one. */
  adapter: LinearAdapter | null = null
  /** The weight in few bits; then there is no `weight`. See pack(). */
  packed: PackedWeight | null = null

  constructor(inFeatures: number, outFeatures: number, options: LinearOptions = {}) {
    super()
    this.weight = new Parameter((options.init ?? gpt2Normal())([outFeatures, inFeatures], options))
    this.bias = options.bias === false ? null : new Parameter(zeros([outFeatures], options))
  }

  /** x [..., in] -> [..., out], plus `residual` [..., out] where given. */
  forward(x: Tensor, residual?: Tensor | null): Tensor {
    return this.adapter ? this.adapter.call(x, residual ?? null, this) : this.product(x, residual)
  }

  /** The layer without its adapter; on request without its bias. */
  product(x: Tensor, residual?: Tensor | null, withBias = true): Tensor {
    const bias = withBias ? this.bias?.value : null
    return this.packed ? this.packed.product(x, bias, residual) : linear(x, this.weight.value, bias, residual)
  }

  /** Whether the layer is nothing but the product with its weight, which others may then compute. */
  get plain(): boolean {
    return !this.adapter && !this.packed
  }

  get shape(): readonly [outFeatures: number, inFeatures: number] {
    return (this.packed ?? this.weight).shape as [number, number]
  }

  /** Keeps these outputs, in this order. */
  keepOutputs(places: readonly number[]): void {
    this.keep(0, places)
  }

  /** Keeps these inputs, in this order. */
  keepInputs(places: readonly number[]): void {
    this.keep(1, places)
  }

  private keep(axis: 0 | 1, places: readonly number[]): void {
    if (!this.plain) throw new LeanformerError('ERR_ARGUMENT', 'Linear: only a plain layer can shrink', 'merge its adapter, or shrink it before its weight is packed')
    const shrunk = (old: Parameter) => {
      const index = tensor(Int32Array.from(places), [places.length], { device: old.tensor.device })
      const fresh = new Parameter(scope(() => noGrad(() => indexSelect(old.tensor, axis, index))))
      fresh.trainable = old.trainable
      old.dispose()
      index.dispose()
      return fresh
    }
    this.weight = shrunk(this.weight)
    if (axis === 0 && this.bias) this.bias = shrunk(this.bias)
  }

  /** Replaces the weight by one in few bits, which is not trained. */
  pack(packed: PackedWeight): void {
    this.weight.dispose()
    ;(this as { weight: Parameter | null }).weight = null
    this.packed = packed
  }
}
