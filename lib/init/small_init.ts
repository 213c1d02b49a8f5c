// Small init: weights N(0, sqrt(2 / (5 width))); the last matrix of each branch N(0, 2 / (L sqrt(width))) for L layers.
// Source: Nguyen and Salazar, arXiv 1910.05895; the second rule as in GPT-NeoX (Black et al., arXiv 2204.06745).
import type { Generator } from '../tensor/random'
import { defineInitializer, fill, type ParameterTree } from './model_initializer'
import { normal } from './normal'
import { layersOf, partsOf } from './roles'

export const smallDeviation = (width: number) => Math.sqrt(2 / (5 * width))
export const wangDeviation = (width: number, layers: number) => 2 / (layers * Math.sqrt(width))

/** Fills all matrices and tables of a model so. */
export function smallInit(model: ParameterTree, generator: Generator): void {
  const parts = partsOf(model)
  const layers = layersOf(parts)
  for (const { role, parameter } of parts) {
    if (parameter.shape.length < 2 || role === 'position') continue
    const residual = role === 'out' || role === 'down'
    // The width of the model: the outputs of the last matrices, the inputs of all others.
    const width = parameter.shape[residual ? 0 : 1]
    fill(parameter, normal(residual ? wangDeviation(width, layers) : smallDeviation(width)), generator)
  }
}

export const smallInitEntry = defineInitializer({
  name: 'small_init',
  title: 'Small init, with outputs of branches divided by their number',
  source: 'Nguyen and Salazar, arXiv 1910.05895',
  settings: {},
  make: () => ({ config: {}, apply: smallInit }),
})
