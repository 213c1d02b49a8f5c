// GPT-2's initialisation: weights and embeddings N(0, 0.02), projections onto the residual stream N(0, 0.02 / sqrt(2 L))
// for L layers, biases 0. Source: Radford et al. 2019, section 2.3.
import type { Initializer } from './initializer'
import { normal } from './normal'

export const gpt2Deviation = 0.02

export function gpt2Normal(): Initializer {
  return normal(gpt2Deviation)
}

/** For the last matrix of a residual branch; `layers` transformer layers have two branches each. */
export function gpt2Residual(layers: number): Initializer {
  return normal(gpt2Deviation / Math.sqrt(2 * layers))
}
