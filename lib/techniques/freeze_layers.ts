// Layer freezing: the first layers stop training, at once or one after another, and with them the embeddings (unless they
// are the head, too). What is frozen has no gradients, so the backward pass ends above it; its weights and its optimiser
// state stay as they are. Source: Brock et al., FreezeOut, arXiv 1706.04983.
import type { Module } from '../nn/module'
import { layersOf } from './layers'
import { defineTechnique, type TrainingRun } from './technique'

/** Stops training of the first `count` layers and of the embeddings below them; what was frozen before stays so. */
export function freezeLayers(model: Module<never, unknown>, count: number): void {
  if (count === 0) return
  for (const layer of layersOf(model, 'freeze_layers').slice(0, count)) for (const parameter of layer.parameters()) parameter.trainable = false
  const { config } = model as { config?: { tiedHead?: boolean } }
  for (const [name, parameter] of model.namedParameters()) {
    const embeds = /^(token|position|type|patch)_embedding(\.|$)/.test(name)
    if (embeds && !(name.startsWith('token') && config?.tiedHead)) parameter.trainable = false
  }
}

export const freezeLayersTechnique = defineTechnique({
  name: 'freeze_layers',
  title: 'Layer freezing: the first layers stop training',
  category: 'incremental',
  source: 'Brock et al., arXiv 1706.04983',
  settings: {
    layers: { default: 1, min: 0, integer: true, help: 'how many of the first layers stop' },
    from: { default: 0.5, min: 0, max: 1, help: 'share of the steps after which they stop' },
    gradually: { default: false, help: 'one after another between then and the end' },
  },
  neutral: { settings: { layers: 0 } },
  make: ({ layers, from, gradually }) => {
    let run: TrainingRun | undefined
    let [frozen, known] = [0, 0]
    return {
      after: ['progressive_stacking'],
      setup(given) {
        run = given
      },
      step(next, { step }) {
        const { model, steps } = run!
        const since = step - from * steps
        const due = since < 0 ? 0 : gradually ? Math.min(layers, 1 + Math.floor((since * layers) / Math.max(1, (1 - from) * steps))) : layers
        const parameters = model.parameters().length
        if (due !== frozen || (due > 0 && parameters !== known)) freezeLayers(model, due)
        ;[frozen, known] = [due, parameters]
        next()
      },
    }
  },
})
