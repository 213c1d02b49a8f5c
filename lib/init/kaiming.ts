// Kaiming (He) initialisation for rectifiers: keeps the variance of activations. Source: He et al., arXiv 1502.01852.
import { fans, type Initializer } from './initializer'
import { normal } from './normal'
import { uniform } from './uniform'

/** N(0, gain / sqrt(fanIn)); the gain of a ReLU is sqrt(2). */
export function kaimingNormal(gain = Math.SQRT2): Initializer {
  return (shape, options) => normal(gain / Math.sqrt(fans(shape).fanIn))(shape, options)
}

/** Uniform in +-gain sqrt(3 / fanIn). */
export function kaimingUniform(gain = Math.SQRT2): Initializer {
  return (shape, options) => {
    const bound = gain * Math.sqrt(3 / fans(shape).fanIn)
    return uniform(-bound, bound)(shape, options)
  }
}
