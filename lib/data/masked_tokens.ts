// Batches for a masked language model from any batches of tokens: of the places in a window a share of 15 % is chosen; of
// those 80 % become the mask, 10 % another token at random, 10 % stay; the targets are the tokens that stood there.
// Chosen anew for every batch by its index, so that a resume skips nothing. Source: Devlin et al., arXiv 1810.04805.
import { LeanformerError } from '../native/errors'
import { hostRandom } from '../tensor/random'
import { kIgnored, type TokenBatch } from './tokens'

export interface MaskedTokensOptions {
  /** Id of the mask, which must not occur in the text. */
  maskId: number
  /** Random tokens are below this. */
  vocab: number
  seed: number
  /** Share of places; default 0.15. */
  probability?: number
}

export class MaskedTokens {
  private readonly options: Required<MaskedTokensOptions>

  constructor(
    private readonly source: { batch(index: number): TokenBatch; readonly length?: number },
    options: MaskedTokensOptions,
  ) {
    this.options = { probability: 0.15, ...options }
    const { probability } = this.options
    if (!(probability > 0 && probability <= 1)) {
      throw new LeanformerError('ERR_ARGUMENT', `masked tokens: probability is ${probability}`, 'give a number above 0, at most 1')
    }
  }

  /** Batches of a source that ends; 0 for one that does not. */
  get length(): number {
    return this.source.length ?? 0
  }

  /** At least one place is chosen. Places without a target in the source are padding: nobody sees them. */
  batch(index: number): TokenBatch & { segments?: Int32Array } {
    const { maskId, vocab, seed, probability } = this.options
    const { inputs: tokens, targets: next, batch, context, ...rest } = this.source.batch(index)
    const random = hostRandom({ seed, offset: index })
    const inputs = tokens.slice()
    const targets = new Int32Array(tokens.length).fill(kIgnored)
    const places = Array.from(tokens.keys()).filter((i) => next[i] !== kIgnored)
    let chosen = places.filter(() => random.uniform() < probability)
    if (chosen.length === 0) chosen = [places[Math.floor(random.uniform() * places.length)]]
    for (const i of chosen) {
      targets[i] = tokens[i]
      const u = random.uniform()
      if (u < 0.8) inputs[i] = maskId
      else if (u < 0.9) inputs[i] = Math.floor(random.uniform() * vocab)
    }
    const padded = places.length < tokens.length
    return {
      ...rest,
      inputs,
      targets,
      batch,
      context,
      tokens: chosen.length,
      ...(padded ? { segments: next.map((target) => (target === kIgnored ? -1 : 0)) } : {}),
    }
  }
}
