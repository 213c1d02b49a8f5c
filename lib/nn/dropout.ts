// Dropout: sets each element to 0 with probability p while training, and scales the others by 1 / (1 - p).
import { LeanformerError } from '../native/errors'
import { dropout } from '../ops/dropout'
import type { Tensor } from '../tensor/tensor'
import { Module } from './module'

export class Dropout extends Module {
  constructor(private readonly p: number) {
    super()
    if (!(p >= 0 && p < 1)) throw new LeanformerError('ERR_ARGUMENT', `Dropout: p must be at least 0 and below 1, got ${p}`)
  }

  forward(x: Tensor): Tensor {
    return this.training && this.p > 0 ? dropout(x, this.p) : x
  }
}
