// Fixup: trains deep residual networks without normalisation. With B residual branches of m matrices each, the last matrix
// of a branch and the head start at 0, the other matrices at their usual size times B^(-1 / (2m - 2)): attention counts
// as m = 4, the feed-forward branch as m = 2 (3 with SwiGLU). Each branch has a trainable factor (1) and scalar shifts (0).
// Source: Zhang, Dauphin and Ma, arXiv 1901.09321.
import type { Generator } from '../tensor/random'
import type { Initializer } from './initializer'
import { defineInitializer, fill, type ParameterTree } from './model_initializer'
import { normal } from './normal'
import { branchesOf, partsOf, stacked, type Part } from './roles'
import { xavierUniform } from './xavier'

/** Factor of the matrices of a branch that are not the last: `branches` in the network, `matrices` in the branch. */
export function fixupScale(branches: number, matrices: number): number {
  return branches ** (-1 / (2 * matrices - 2))
}

function initOf({ role, rows, gated, parameter }: Part, branches: number): Initializer | null {
  const xavier = (matrices: number) => stacked(rows, rows.map(() => xavierUniform(fixupScale(branches, matrices))))
  switch (role) {
    case 'embedding':
      return normal(1 / Math.sqrt(parameter.shape[1]))
    case 'out':
    case 'down':
    case 'head':
      return normal(0)
    case 'qkv':
    case 'q':
    case 'kv':
      return xavier(4)
    case 'up':
      return xavier(gated ? 3 : 2)
    case 'matrix':
      return xavierUniform()
    default:
      return null
  }
}

/** Fills a model built without norms and biases, with a gate of 1 on each branch and with shifts. */
export function fixup(model: ParameterTree, generator: Generator, scalarRate = 0.1): void {
  const parts = partsOf(model)
  const branches = branchesOf(parts)
  for (const part of parts) {
    if (part.role === 'gate' || part.role === 'shift') part.parameter.scales.lr = scalarRate
    const init = initOf(part, branches)
    if (init) fill(part.parameter, init, generator)
  }
}

export const fixupEntry = defineInitializer({
  name: 'fixup',
  title: 'Fixup: no normalisation, branches that start at 0',
  source: 'Zhang, Dauphin and Ma, arXiv 1901.09321',
  settings: {
    scalar_rate: { default: 0.1, min: 0, max: 1, help: 'factor of the learning rate for the scalars of branches' },
  },
  make: ({ scalar_rate }) => ({
    config: { norm: 'none', bias: false, tiedHead: false, gates: 'branch', gateStart: 1, shifts: true, scaleEmbeddings: true },
    apply: (model, generator) => fixup(model, generator, scalar_rate),
  }),
})
