// LayerDrop: while training, each layer is left out with the same probability, without rescaling, so that the trained model
// also works with fewer layers; these are then every other one, and so on. Source: Fan et al., arXiv 1909.11556.
import { LeanformerError } from '../native/errors'
import { setDepthRules } from './layers'
import { defineTechnique, type TrainingRun } from './technique'

/** The layers (from 0) that stay when a share `p` of them goes: layer l (from 1) goes where l mod round(1 / p) is 0. */
export function layersKept(layers: number, p: number): number[] {
  if (!(p > 0 && p <= 0.5)) throw new LeanformerError('ERR_ARGUMENT', `layersKept: p is ${p}`, 'give a share above 0 and up to 0.5')
  const every = Math.round(1 / p)
  return Array.from({ length: layers }, (_, l) => l).filter((l) => (l + 1) % every !== 0)
}

/** Keeps these layers of a model and disposes of the others. */
export function keepLayers<B extends { dispose(): void }>(model: { blocks: B[]; config: { layers: number } }, keep: readonly number[]): void {
  if (!keep.length) throw new LeanformerError('ERR_ARGUMENT', 'keepLayers: no layer is kept', 'give at least one, counted from 0')
  for (const i of keep) {
    if (!model.blocks[i]) throw new LeanformerError('ERR_ARGUMENT', `keepLayers: there is no layer ${i} among ${model.blocks.length}`)
  }
  const kept = keep.map((i) => model.blocks[i])
  for (const block of model.blocks) if (!kept.includes(block)) block.dispose()
  model.blocks = kept
  model.config.layers = kept.length
}

export const layerDrop = defineTechnique({
  name: 'layer_drop',
  title: 'LayerDrop: whole layers left out at random, so that fewer suffice later',
  category: 'incremental',
  source: 'Fan et al., arXiv 1909.11556',
  settings: { p: { default: 0.2, min: 0, max: 0.9, help: 'probability of leaving a layer out; 0.5 where half of them will go' } },
  decides: ['present_layers'],
  neutral: { settings: { p: 0 } },
  make: ({ p }) => {
    const setRules = (model: TrainingRun['model']) =>
      setDepthRules(model, 'layer_drop', () => (p === 0 ? null : { keep: 1 - p, unit: 'layer', per: 'batch', rescale: 'none' }))
    let run: TrainingRun | undefined
    return {
      after: ['progressive_stacking'],
      mayLeaveOutAll: true,
      adapt: setRules,
      setup(given) {
        run = given
      },
      // Again in each step: the model may have grown.
      step(next) {
        setRules(run!.model)
        next()
      },
    }
  },
})
