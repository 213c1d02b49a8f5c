// Xavier (Glorot) initialisation: keeps the variance of activations and gradients alike.
// xavierEntry gives it to every matrix of a model. Source: Glorot and Bengio, AISTATS 2010.
import { fans, type Initializer } from './initializer'
import type { Generator } from '../tensor/random'
import { defineInitializer, fill, type ParameterTree } from './model_initializer'
import { normal } from './normal'
import { partsOf, stacked } from './roles'
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

/**
 * Xavier for each matrix (queries, keys and values one by one), embeddings N(0, 1 / sqrt(width)); what is not a matrix
 * stays as it is: zeros and ones.
 */
export function xavierModel(model: ParameterTree, generator: Generator): void {
  for (const { parameter, role, rows } of partsOf(model)) {
    if (parameter.shape.length < 2 || role === 'position') continue
    const init = role === 'embedding' ? normal(1 / Math.sqrt(parameter.shape[1])) : stacked(rows, rows.map(() => xavierUniform()))
    fill(parameter, init, generator)
  }
}

export const xavierEntry = defineInitializer({
  name: 'xavier',
  title: 'Xavier for every matrix, embeddings of unit variance',
  source: 'Glorot and Bengio, AISTATS 2010; embeddings as in Vaswani et al., arXiv 1706.03762',
  settings: {},
  make: () => ({ config: { scaleEmbeddings: true }, apply: xavierModel }),
})
