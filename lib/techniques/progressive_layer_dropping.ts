// Progressive layer dropping: layer i of L is kept with probability 1 - (i / L) (1 - theta), with theta falling during
// training from 1 to its end: theta(t) = (1 - end) exp(-gamma t) + end. Both branches of a layer share one draw and are
// divided by the probability it was drawn with. Layers without a draw have no gradient in that step and are left alone.
// Source: Zhang and He, arXiv 2010.13369.
import { setDepthRules } from './layers'
import { keepProbability } from './stochastic_depth'
import { defineTechnique, type TrainingRun } from './technique'

/** theta after `step` steps. */
export function keepRatio(step: number, end: number, gamma: number): number {
  return (1 - end) * Math.exp(-gamma * step) + end
}

/** Layers that are there on average at theta. */
export function expectedLayers(layers: number, theta: number): number {
  let sum = 0
  for (let i = 1; i <= layers; ++i) sum += keepProbability(i, layers, theta)
  return sum
}

export const progressiveLayerDropping = defineTechnique({
  name: 'progressive_layer_dropping',
  title: 'Progressive layer dropping: more and more layers left out at random',
  category: 'incremental',
  source: 'Zhang and He, arXiv 2010.13369',
  settings: {
    end: { default: 0.5, min: 0.01, max: 1, help: 'theta at the end; 1 drops nothing' },
    gamma: { default: 0, min: 0, help: 'how fast theta falls; 0: 100 / steps' },
  },
  decides: ['present_layers'],
  neutral: { settings: { end: 1 } },
  make: ({ end, gamma }) => {
    let run: TrainingRun | undefined
    return {
      after: ['progressive_stacking'],
      mayLeaveOutAll: true,
      setup(given) {
        run = given
      },
      step(next, { step }) {
        const { model, steps } = run!
        const theta = keepRatio(step, end, gamma || 100 / steps)
        setDepthRules(model, 'progressive_layer_dropping', (layer, layers) =>
          theta === 1 ? null : { keep: keepProbability(layer, layers, theta), unit: 'layer', per: 'batch', rescale: 'training' },
        )
        next()
      },
    }
  },
})
