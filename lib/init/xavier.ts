// Xavier (Glorot) initialisation: keeps the variance of activations and gradients alike.
// Source: Glorot and Bengio, AISTATS 2010.
import { fans, type Initializer } from './initializer'
import { normal } from './normal'
import { uniform } from './uniform'

/** N(0, gain sqrt(2 / (fanIn + fanOut))). */
export function xavierNormal(gain = 1): Initializer {
  return (shape, options) => {
    const { fanIn, fanOut } = fans(shape)
    return normal(gain * Math.sqrt(2 / (fanIn + fanOut)))(shape, options)
  }
}

/** Uniform in +-gain sqrt(6 / (fanIn + fanOut)). */
export function xavierUniform(gain = 1): Initializer {
  return (shape, options) => {
    const { fanIn, fanOut } = fans(shape)
    const bound = gain * Math.sqrt(6 / (fanIn + fanOut))
    return uniform(-bound, bound)(shape, options)
  }
}
