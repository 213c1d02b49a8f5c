// ReZero: x + a F(x) with one trainable a for each layer, 0 at first, and no normalisation: every network starts as the
// identity. The skip stays as it is. The matrices of F start as usual; their first gradient is 0, that of a is not.
// Source: Bachlechner et al., arXiv 2003.04887.
import { defineInitializer } from './model_initializer'
import { xavierModel } from './xavier'

export const rezeroEntry = defineInitializer({
  name: 'rezero',
  title: 'ReZero: one gate a layer, starting at 0, no normalisation',
  source: 'Bachlechner et al., arXiv 2003.04887',
  settings: {},
  make: () => ({
    config: { norm: 'none', gates: 'layer', gateStart: 0, scaleEmbeddings: true },
    apply: xavierModel,
  }),
})
