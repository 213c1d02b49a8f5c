// Bottleneck adapters in a frozen model (nn/bottleneck.ts): Houlsby's two a layer, after attention and after the
// feed-forward layer; Pfeiffer's one, after the feed-forward layer. Norms and heads are trained with them.
// Source: Houlsby et al., arXiv 1902.00751; Pfeiffer et al., arXiv 2005.00247.
import { Bottleneck } from '../nn/bottleneck'
import { linearTargets } from '../nn/linear_parts'
import type { Module } from '../nn/module'
import { Generator } from '../tensor/random'
import { defineTechnique } from './technique'
import { isHead, trainOnly } from './train_only'

export interface AdapterOptions {
  form: 'houlsby' | 'pfeiffer'
  /** Width inside the adapters. */
  bottleneck: number
  /** Standard deviation of the weights at first; default 1e-3. */
  deviation?: number
  /** Train the norms too; default true. */
  norms?: boolean
  generator?: Generator
}

/** Freezes the model and gives it adapters; returns how many numbers are trained. */
export function addAdapters(model: Module<never, unknown>, options: AdapterOptions): number {
  const { form, bottleneck, deviation, norms = true, generator } = options
  for (const { layer, parts } of linearTargets(model)) {
    const [{ name }] = parts
    if (name !== 'down' && !(name === 'out' && form === 'houlsby')) continue
    const { device, dtype } = layer.weight.tensor
    layer.adapter = new Bottleneck(layer.shape[0], bottleneck, { deviation, device, dtype, generator })
  }
  return trainOnly(model, (path) => path.includes('.adapter.') || isHead(path) || (norms && /(^|\.)\w*norm\d?\./.test(path)))
}

export const adapters = defineTechnique({
  name: 'adapters',
  title: 'Bottleneck adapters after the branches of a frozen model',
  category: 'parameter-efficient tuning',
  source: 'Houlsby et al., arXiv 1902.00751; Pfeiffer et al., arXiv 2005.00247',
  settings: {
    form: { default: 'houlsby', choices: ['houlsby', 'pfeiffer'], help: 'two adapters a layer, or one after the feed-forward layer' },
    bottleneck: { default: 16, min: 0, integer: true, help: 'width inside an adapter; 0: off' },
    deviation: { default: 1e-3, min: 0, help: 'of the weights at first' },
    seed: { default: 1, min: 0, integer: true, help: 'of the first weights' },
  },
  decides: ['trained_parameters'],
  neutral: { settings: { bottleneck: 0 } },
  make: ({ form, bottleneck, deviation, seed }) => ({
    after: ['distil'],
    adapt(model) {
      if (bottleneck > 0) addAdapters(model, { form: form as AdapterOptions['form'], bottleneck, deviation, generator: new Generator(seed) })
    },
  }),
})
