// GPT-2's initialisation: weights and embeddings N(0, 0.02), projections onto the residual stream N(0, 0.02 / sqrt(2 L))
// for L layers, biases 0. Source: Radford et al. 2019, section 2.3.
import type { Generator } from '../tensor/random'
import type { Initializer } from './initializer'
import { defineInitializer, fill, type ParameterTree } from './model_initializer'
import { normal } from './normal'
import { layersOf, partsOf } from './roles'

export const gpt2Deviation = 0.02

export function gpt2Normal(): Initializer {
  return normal(gpt2Deviation)
}

/** For the last matrix of a residual branch; `layers` transformer layers have two branches each. */
export function gpt2Residual(layers: number): Initializer {
  return normal(gpt2Deviation / Math.sqrt(2 * layers))
}

/** Fills all matrices and tables of a model so; `positions` is the deviation of learned positions. */
export function gpt2(model: ParameterTree, generator: Generator, positions = gpt2Deviation): void {
  const parts = partsOf(model)
  const layers = layersOf(parts)
  for (const { path, role, parameter } of parts) {
    if (parameter.shape.length < 2 || role === 'position') continue
    const residual = role === 'out' || role === 'down'
    fill(parameter, residual ? gpt2Residual(layers) : normal(/position/.test(path) ? positions : gpt2Deviation), generator)
  }
}

export const gpt2Entry = defineInitializer({
  name: 'gpt2',
  title: "GPT-2's: N(0, 0.02), matrices that write to the residual stream divided by sqrt(2 L)",
  source: 'Radford et al. 2019',
  settings: {
    positions: { default: 0.02, min: 0, help: 'standard deviation of learned positions; GPT-2 itself has 0.01' },
  },
  make: ({ positions }) => ({ config: {}, apply: (model, generator) => gpt2(model, generator, positions) }),
})
