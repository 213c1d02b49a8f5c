// SkipInit: x + a F(x) with one trainable a for each residual branch and no normalisation. It starts at 0, or at
// 1 / sqrt(branches), with which the variance at the end is at most e times that at the beginning.
// Source: De and Smith, arXiv 2002.10444.
import { full } from '../ops/creation'
import type { Generator } from '../tensor/random'
import { defineInitializer, fill, type ParameterTree } from './model_initializer'
import { branchesOf, partsOf } from './roles'
import { xavierModel } from './xavier'

/** Fills a model built without norms, with a gate on each branch. */
export function skipInit(model: ParameterTree, generator: Generator, start: 'zero' | 'depth' = 'zero'): void {
  xavierModel(model, generator)
  const parts = partsOf(model)
  const gate = start === 'zero' ? 0 : 1 / Math.sqrt(branchesOf(parts))
  for (const { role, parameter } of parts) {
    if (role === 'gate') fill(parameter, (shape, options) => full(shape, gate, options), generator)
  }
}

export const skipInitEntry = defineInitializer({
  name: 'skip_init',
  title: 'SkipInit: one gate a branch, no normalisation',
  source: 'De and Smith, arXiv 2002.10444',
  settings: {
    start: { default: 'zero', choices: ['zero', 'depth'], help: 'the gates start at 0, or at 1 / sqrt(branches)' },
  },
  make: ({ start }) => ({
    config: { norm: 'none', gates: 'branch', gateStart: 0, scaleEmbeddings: true },
    apply: (model, generator) => skipInit(model, generator, start as 'zero' | 'depth'),
  }),
})
