// Stochastic depth: while training, the branches of layer l of L are there with probability 1 - (l / L) (1 - keep), drawn for
// the batch, which saves their computation, or for each sample. Inverted, they are divided by it then; in the original
// form they are multiplied by it in evaluation. Source: Huang et al., arXiv 1603.09382.
import type { DepthRule } from '../nn/residual'
import { setDepthRules } from './layers'
import { defineTechnique, type TrainingRun } from './technique'

/** Probability of layer `layer` (from 1) of `layers` being kept, when the last one is kept with probability `last`. */
export function keepProbability(layer: number, layers: number, last: number): number {
  return 1 - (layer / layers) * (1 - last)
}

export const stochasticDepth = defineTechnique({
  name: 'stochastic_depth',
  title: 'Stochastic depth: branches dropped at random, later ones more often',
  category: 'incremental',
  source: 'Huang et al., arXiv 1603.09382',
  settings: {
    keep: { default: 0.8, min: 0.01, max: 1, help: 'probability of keeping the last layer; 0.8 to 0.9 suits transformers' },
    per: { default: 'batch', choices: ['batch', 'sample'], help: 'one draw for the batch, or one for each sample' },
    form: { default: 'inverted', choices: ['inverted', 'original'], help: 'rescale in training, or in evaluation' },
  },
  decides: ['present_layers'],
  neutral: { settings: { keep: 1 } },
  make: ({ keep, per, form }) => {
    const rescale = form === 'inverted' ? 'training' : 'evaluation'
    const setRules = (model: TrainingRun['model']) =>
      setDepthRules(model, 'stochastic_depth', (layer, layers) =>
        keep === 1 ? null : { keep: keepProbability(layer, layers, keep), unit: 'branch', per: per as DepthRule['per'], rescale },
      )
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
