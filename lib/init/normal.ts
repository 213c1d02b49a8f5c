// Independent normal numbers.
import { randn } from '../ops/random'
import { mulScalar } from '../ops/elementwise'
import { scope } from '../tensor/scope'
import { resolveOptions, type Initializer } from './initializer'

/** N(mean 0, standard deviation `deviation`). */
export function normal(deviation = 1): Initializer {
  return (shape, options) => scope(() => mulScalar(randn(shape, resolveOptions(options)), deviation))
}
