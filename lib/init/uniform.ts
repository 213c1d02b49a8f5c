// Independent uniform numbers.
import { rand } from '../ops/random'
import { scale } from '../ops/elementwise'
import { scope } from '../tensor/scope'
import { resolveOptions, type Initializer } from './initializer'

/** Uniform in [low, high). */
export function uniform(low = 0, high = 1): Initializer {
  return (shape, options) => scope(() => scale(rand(shape, resolveOptions(options)), high - low, low))
}
