// IA3: a frozen model whose keys, values and feed-forward activations get trained factors (nn/rescale.ts), L (d_k + d_v +
// d_ff) numbers in all. The factors can be merged into the weights. Source: Liu et al., arXiv 2205.05638.
import { LeanformerError } from '../native/errors'
import { Linear } from '../nn/linear'
import { linearTargets, type LinearPart } from '../nn/linear_parts'
import type { Module } from '../nn/module'
import { Rescale } from '../nn/rescale'
import { defineTechnique } from './technique'
import { trainOnly } from './train_only'

export interface IA3Options {
  /** Which matrices; default those named k, v and down. */
  select?: (path: string, part: LinearPart) => boolean
  /** Of which of them the inputs are scaled; default down. */
  ofInputs?: (path: string, part: LinearPart) => boolean
}

/** Freezes the model and gives the targets factors; returns how many numbers are trained. */
export function addIA3(model: Module<never, unknown>, options: IA3Options = {}): number {
  const { select = (_, { name }) => ['k', 'v', 'down'].includes(name), ofInputs = (_, { name }) => name === 'down' } = options
  let found = 0
  for (const { path, layer, parts } of linearTargets(model)) {
    const chosen = parts.filter((part) => select(path, part))
    if (!chosen.length) continue
    layer.adapter = new Rescale(layer, chosen, (part) => ofInputs(path, part))
    found++
  }
  if (!found) throw new LeanformerError('ERR_ARGUMENT', 'ia3: the model has none of the chosen matrices', 'it needs linear layers named k, v or down')
  return trainOnly(model, (path) => path.includes('.adapter.'))
}

/** Every layer with IA3 factors, by path. */
export function ia3Layers(model: Module<never, unknown>): Map<string, { layer: Linear; adapter: Rescale }> {
  const found = new Map<string, { layer: Linear; adapter: Rescale }>()
  for (const [path, module] of model.namedModules()) {
    const layer = module as unknown
    if (layer instanceof Linear && layer.adapter instanceof Rescale) found.set(path, { layer, adapter: layer.adapter })
  }
  return found
}

/** Writes all factors into the weights. */
export function mergeIA3(model: Module<never, unknown>): void {
  for (const { layer, adapter } of ia3Layers(model).values()) adapter.merge(layer)
}

/** Divides them out again; not exact. */
export function unmergeIA3(model: Module<never, unknown>): void {
  for (const { layer, adapter } of ia3Layers(model).values()) adapter.unmerge(layer)
}

export const ia3 = defineTechnique({
  name: 'ia3',
  title: 'IA3: trained factors on keys, values and feed-forward activations of a frozen model',
  category: 'parameter-efficient tuning',
  source: 'Liu et al., arXiv 2205.05638',
  settings: {},
  decides: ['trained_parameters'],
  neutral: { settings: {}, until: 'first update' },
  make: () => ({ after: ['distil'], adapt: (model) => void addIA3(model) }),
})
