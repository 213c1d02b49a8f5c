// Token embedding: rows of a table picked by id, with learned positions added in the same pass where there are any.
import { gpt2Normal } from '../init/gpt2'
import type { Initializer } from '../init/initializer'
import { embedding } from '../ops/embedding'
import type { Tensor } from '../tensor/tensor'
import { Module, type ModuleOptions } from './module'
import { Parameter } from './parameter'

export interface EmbeddingOptions extends ModuleOptions {
  init?: Initializer
}

export class Embedding extends Module<[ids: Tensor]> {
  weight: Parameter

  constructor(count: number, width: number, options: EmbeddingOptions = {}) {
    super()
    this.weight = new Parameter((options.init ?? gpt2Normal())([count, width], options))
  }

  /** ids i32 [...] -> [..., width]. */
  forward(ids: Tensor): Tensor {
    return embedding(this.weight.value, ids)
  }
}
