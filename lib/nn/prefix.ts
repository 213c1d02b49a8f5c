// Trained keys and values that every query of an attention layer sees before all others.
// Source: Li and Liang, arXiv 2101.00190.
import { normal } from '../init/normal'
import { expand } from '../ops/broadcast'
import { cast } from '../ops/cast'
import { concat } from '../ops/concat'
import type { Tensor } from '../tensor/tensor'
import { Module, type ModuleOptions } from './module'
import { Parameter } from './parameter'

export class Prefix extends Module<[k: Tensor, v: Tensor], [keys: Tensor, values: Tensor]> {
  /** [length, kvHeads, head width] each. */
  keys: Parameter
  values: Parameter

  constructor(
    readonly length: number,
    kvHeads: number,
    headWidth: number,
    options: ModuleOptions = {},
  ) {
    super()
    const start = normal(0.02)
    this.keys = new Parameter(start([length, kvHeads, headWidth], options))
    this.values = new Parameter(start([length, kvHeads, headWidth], options))
  }

  /** k, v [batch, tokens, kvHeads, head width] with the prefix before them. */
  forward(k: Tensor, v: Tensor): [Tensor, Tensor] {
    const shape = [k.shape[0], ...this.keys.shape]
    const before = (prefix: Parameter, x: Tensor) => concat([expand(cast(prefix.value, x.dtype), shape), x], 1)
    return [before(this.keys, k), before(this.values, v)]
  }
}
