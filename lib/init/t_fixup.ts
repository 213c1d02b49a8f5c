// T-Fixup: transformers without normalisation and without warm-up, by scaling what they start with. For N layers a side,
// over Xavier: values, attention outputs and both feed-forward matrices times 0.67 N^(-1/4) in an encoder, (9 N)^(-1/4) in
// a decoder (with its cross-attention); embeddings N(0, 1 / width) times (9 N)^(-1/4), and times sqrt(width) when used.
// Queries and keys are not scaled; they have Xavier's gain of 1 / sqrt(2) as parts of one matrix. A decoder that reads no
// encoder has two branches a layer, like an encoder: it takes the encoder's factor (our extension, as is SwiGLU, whose
// three matrices share the factor's square). Source: Huang et al., ICML 2020, PMLR 119:4475.
import type { Generator } from '../tensor/random'
import type { Initializer } from './initializer'
import { defineInitializer, fill, type ParameterTree } from './model_initializer'
import { normal } from './normal'
import { layersOf, partsOf, stacked, type Part } from './roles'
import { xavierUniform } from './xavier'

export type Side = 'encoder' | 'decoder' | 'decoder_only'

/** Factor of the matrices of branches, for `layers` of that side. */
export function tFixupScale(side: Side, layers: number): number {
  return side === 'decoder' ? (9 * layers) ** -0.25 : 0.67 * layers ** -0.25
}

/** Factor of the embeddings of that side. */
export function tFixupEmbeddingScale(layers: number): number {
  return (9 * layers) ** -0.25
}

function initOf({ role, rows, gated, parameter }: Part, branch: number, embedding: number): Initializer | null {
  const xavier = (...gains: number[]) => stacked(rows, gains.map((gain) => xavierUniform(gain)))
  switch (role) {
    case 'embedding':
      return normal(embedding / Math.sqrt(parameter.shape[1]))
    case 'qkv':
      return xavier(Math.SQRT1_2, Math.SQRT1_2, branch)
    case 'q':
      return xavier(Math.SQRT1_2)
    case 'kv':
      return xavier(Math.SQRT1_2, branch)
    case 'out':
      return xavier(branch)
    case 'up':
    case 'down':
      return xavier(...rows.map(() => (gated ? branch ** (2 / 3) : branch)))
    case 'head':
    case 'matrix':
      return xavierUniform()
    default:
      return null
  }
}

const sideOf = ({ path }: Part): Side =>
  path.startsWith('encoder.') ? 'encoder' : path.startsWith('decoder.') ? 'decoder' : 'decoder_only'

/** Fills a model built without norms, whose embeddings are multiplied by sqrt(width). */
export function tFixup(model: ParameterTree, generator: Generator): void {
  const parts = partsOf(model)
  const layers = (side: Side) => layersOf(parts.filter((part) => sideOf(part) === side))
  for (const part of parts) {
    const side = sideOf(part)
    // What both sides share, and a table of positions named after one, goes by the encoder.
    const depth = layers(side) || layers('encoder')
    const init = initOf(part, tFixupScale(side, depth), tFixupEmbeddingScale(depth))
    if (init) fill(part.parameter, init, generator)
  }
}

export const tFixupEntry = defineInitializer({
  name: 't_fixup',
  title: 'T-Fixup: no normalisation, no warm-up, scaled weights',
  source: 'Huang et al., ICML 2020, PMLR 119:4475',
  settings: {},
  make: () => ({ config: { norm: 'none', scaleEmbeddings: true }, apply: tFixup }),
})
