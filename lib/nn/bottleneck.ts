// An adapter after a layer, before the residual is added: h + W_up gelu(W_down h + b) + c, with h the layer's own result.
// W starts near zero, so that the model starts as it was. Source: Houlsby et al., arXiv 1902.00751.
import { normal } from '../init/normal'
import { add, gelu } from '../ops/elementwise'
import type { Tensor } from '../tensor/tensor'
import { Linear } from './linear'
import { Module, type ModuleOptions } from './module'

export interface BottleneckOptions extends ModuleOptions {
  /** Standard deviation of the weights at first; default 1e-3. */
  deviation?: number
}

export class Bottleneck extends Module<[x: Tensor, residual: Tensor | null, layer: Linear]> {
  down: Linear
  up: Linear

  constructor(width: number, bottleneck: number, { deviation = 1e-3, ...options }: BottleneckOptions = {}) {
    super()
    this.down = new Linear(width, bottleneck, { ...options, init: normal(deviation) })
    this.up = new Linear(bottleneck, width, { ...options, init: normal(deviation) })
  }

  forward(x: Tensor, residual: Tensor | null, layer: Linear): Tensor {
    const h = layer.product(x)
    const y = this.up.call(gelu(this.down.call(h)), h)
    return residual ? add(y, residual) : y
  }
}
