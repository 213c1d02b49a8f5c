// ConViT's start: gated positional self-attention whose heads look at fixed offsets, values that pass through unchanged, so
// that each layer begins as a convolution; other matrices truncated N(0, 0.02), biases 0. In text the heads of a causal
// model look 0, 1, 2, ... tokens back. Source: d'Ascoli et al., arXiv 2103.10697; the form for text is ours.
import { LeanformerError } from '../native/errors'
import { hostRandom, type Generator } from '../tensor/random'
import { tensor } from '../tensor/tensor'
import { resolveOptions, type Initializer } from './initializer'
import { defineInitializer, fill, type ParameterTree } from './model_initializer'
import { partsOf, stacked } from './roles'

/** N(0, deviation) without what is more than two deviations away. */
export function truncatedNormal(deviation: number): Initializer {
  return (shape, options) => {
    const { device, dtype, generator } = resolveOptions(options)
    const { normal } = hostRandom(generator.next())
    const draw = (): number => {
      const x = normal()
      return Math.abs(x) <= 2 ? x * deviation : draw()
    }
    return tensor(Float64Array.from({ length: shape.reduce((n, d) => n * d, 1) }, draw), shape, { device, dtype })
  }
}

/** 1 where row and column agree. */
export const identity: Initializer = (shape, options) => {
  const { device, dtype } = resolveOptions(options)
  const [rows, columns] = shape
  const values = Float64Array.from({ length: rows * columns }, (_, i) => (i % columns === Math.floor(i / columns) ? 1 : 0))
  return tensor(values, shape, { device, dtype })
}

interface Local {
  setLocality(locality: number): void
}

/** Fills a model with GPSA layers; `locality` is how sharply heads look at their offset. */
export function convit(model: ParameterTree & { namedModules?(): Iterable<[string, unknown]> }, generator: Generator, locality = 1): void {
  const isLocal = (module: unknown): module is Local => typeof (module as Local).setLocality === 'function'
  const local = new Map([...(model.namedModules?.() ?? [])].filter((entry): entry is [string, Local] => isLocal(entry[1])))
  if (!local.size) {
    throw new LeanformerError('ERR_ARGUMENT', 'convit: the model has no gated positional self-attention', "build it with attention: 'gpsa'")
  }
  const small = truncatedNormal(0.02)
  for (const { path, role, rows, parameter } of partsOf(model)) {
    if (parameter.shape.length < 2 || role === 'position') continue
    const passes = role === 'qkv' && local.has(path.replace('.qkv.weight', ''))
    fill(parameter, passes ? stacked(rows, [small, small, identity]) : small, generator)
  }
  for (const module of local.values()) module.setLocality(locality)
}

export const convitEntry = defineInitializer({
  name: 'convit',
  title: 'ConViT: gated positional self-attention that starts as a convolution',
  source: "d'Ascoli et al., arXiv 2103.10697",
  settings: {
    locality: { default: 1, min: 0, help: 'how sharply heads look at their offset at first' },
    plain_layers: { default: 0, min: 0, integer: true, help: 'last layers that keep ordinary attention; ConViT has 2 of 12' },
  },
  make: ({ locality, plain_layers }) => ({
    config: { attention: 'gpsa', plainLayers: plain_layers },
    apply: (model, generator) => convit(model, generator, locality),
  }),
})
