// What to change with the batch. SGD: the rate grows in proportion to the batch (with warm-up), Adam and LAMB: with its
// square root, until the batch comes near the gradient noise scale; the decays of moments are powers, so that their memory
// stays the same in examples. Larger batches need fewer steps, never fewer examples.
// Sources: Goyal et al., arXiv 1706.02677; Malladi et al., arXiv 2205.10287; McCandlish et al., arXiv 1812.06162; You et al.,
// arXiv 1904.00962.
import { LeanformerError } from '../native/errors'

export type BatchRule = 'linear' | 'sqrt'

function checkSizes(sizes: Readonly<Record<string, number>>): void {
  for (const [name, value] of Object.entries(sizes)) {
    if (!(value > 0)) throw new LeanformerError('ERR_ARGUMENT', `batch scaling: ${name} must be above 0, got ${value}`)
  }
}

/** The rate at batch `to` of a run whose rate at batch `from` is lr. */
export function scaleLearningRate(lr: number, { from, to, rule }: { from: number; to: number; rule: BatchRule }): number {
  checkSizes({ lr, from, to })
  return lr * (rule === 'linear' ? to / from : Math.sqrt(to / from))
}

/** A moment's decay with the same memory, in examples, at batch `to` as at batch `from`. */
export function scaleDecay(beta: number, { from, to }: { from: number; to: number }): number {
  checkSizes({ from, to })
  return beta ** (to / from)
}

/** largest / (1 + noise / batch)^power: the rate that saturates at the noise scale. Power 1 for SGD, 0.5 to 1 for Adam. */
export function saturatingRate(largest: number, { batch, noise, power = 1 }: { batch: number; noise: number; power?: number }): number {
  checkSizes({ batch, noise })
  return largest / (1 + noise / batch) ** power
}

/** LAMB's published settings for BERT: lr 5e-3 at batch 32768 by the square root, warm-up 1/320 at 512 doubling to 1/5. */
export function lambRecipe(batch: number): { lr: number; warmupFraction: number } {
  checkSizes({ batch })
  return { lr: scaleLearningRate(5e-3, { from: 32768, to: batch, rule: 'sqrt' }), warmupFraction: Math.min(1, batch / 512 / 320) }
}

/**
 * The price of a batch beside the critical one: steps over the fewest possible, 1 + critical / batch, and examples over the
 * fewest possible, 1 + batch / critical. At the critical batch both are 2.
 */
export function batchPrice(batch: number, critical: number): { steps: number; examples: number } {
  checkSizes({ batch, critical })
  return { steps: 1 + critical / batch, examples: 1 + batch / critical }
}
