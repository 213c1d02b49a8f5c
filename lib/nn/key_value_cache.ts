// Keys and values of the tokens so far, for one attention layer during generation. Room for `capacity` tokens is taken
// once, and new tokens are written in place.
import { LeanformerError } from '../native/errors'
import { zeros } from '../ops/creation'
import { keep } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'

export class KeyValueCache {
  /** Tokens held. */
  length = 0
  private keys: Tensor | null = null
  private values: Tensor | null = null

  constructor(readonly capacity: number) {}

  /** The buffers [batch, capacity, kvHeads, width], with room for `tokens` more. */
  reserve(batch: number, tokens: number, kvHeads: number, width: number, like: Tensor): { keys: Tensor; values: Tensor } {
    if (this.length + tokens > this.capacity) {
      throw new LeanformerError(
        'ERR_ARGUMENT',
        `key-value cache: ${this.length} + ${tokens} tokens exceed its ${this.capacity}`,
        'make it as long as the context, and start anew beyond that',
      )
    }
    const shape = [batch, this.capacity, kvHeads, width]
    const fresh = () => keep(zeros(shape, { device: like.device, dtype: like.dtype }))
    return { keys: (this.keys ??= fresh()), values: (this.values ??= fresh()) }
  }

  dispose(): void {
    this.keys?.dispose()
    this.values?.dispose()
    this.keys = this.values = null
    this.length = 0
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
