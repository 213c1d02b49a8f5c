// Progressive stacking: trains a shallow model first, then doubles its layers, once or more often, until it has those asked
// for. The new layers are copies of the old ones, or start as the identity (function-preserving growth). Moments of the
// optimiser are copied with the weights, learning rate and data go on. Source: Gong et al., ICML 2019, PMLR 97:2337.
import { LeanformerError } from '../native/errors'
import { GPT } from '../models/gpt'
import { growDepth, type DepthGrowth } from './grow'
import type { Module } from '../nn/module'
import { keepLayers } from './layer_drop'
import { defineTechnique, type TrainingRun } from './technique'

/** The step at which doubling `k` (from 1) of `doublings` happens: evenly until `at` of all steps. */
export function doublingStep(k: number, doublings: number, at: number, steps: number): number {
  return Math.round((at * steps * k) / doublings)
}

function growable(model: Module<never, unknown>): GPT {
  if ((model as unknown) instanceof GPT) return model as unknown as GPT
  throw new LeanformerError('ERR_OPTION', 'progressive_stacking: only decoders such as gpt and llama grow')
}

export const progressiveStacking = defineTechnique({
  name: 'progressive_stacking',
  title: 'Progressive stacking: a shallow model first, then its layers copied on top',
  category: 'incremental',
  source: 'Gong et al., ICML 2019, PMLR 97:2337',
  settings: {
    doublings: { default: 1, min: 0, max: 8, integer: true, help: 'how often the layers double; 0: off' },
    at: { default: 0.3, min: 0, max: 1, help: 'share of the steps after which the model is whole' },
    how: { default: 'stack', choices: ['stack', 'identity'], help: 'new layers are copies, or start as the identity' },
  },
  excludes: {
    ema: 'an average has no weights for layers that come later',
    swa: 'an average has no weights for layers that come later',
    ...Object.fromEntries(['lora', 'adapters', 'ia3', 'prefix_tuning'].map((name) => [name, 'layers that come later would have no adapters'])),
  },
  neutral: { settings: { doublings: 0 } },
  make: ({ doublings, at, how }) => {
    let run: TrainingRun | undefined
    let done = 0
    const grow = (model: GPT, until: number, optimizer?: TrainingRun['optimizer']) => {
      for (; done < until; ++done) growDepth(model, how as DepthGrowth, optimizer)
    }
    return {
      adapt(model) {
        const gpt = growable(model)
        const { layers } = gpt.config
        if (layers % 2 ** doublings !== 0) {
          throw new LeanformerError('ERR_OPTION', `progressive_stacking: ${layers} layers cannot double ${doublings} times`, `give layers that are a multiple of ${2 ** doublings}`)
        }
        done = 0
        keepLayers(gpt, Array.from({ length: layers / 2 ** doublings }, (_, i) => i))
      },
      setup(given) {
        run = given
      },
      step(next, { step }) {
        let due = 0
        while (due < doublings && step >= doublingStep(due + 1, doublings, at, run!.steps)) due++
        grow(growable(run!.model), due, run!.optimizer)
        next()
      },
      state: () => ({ data: { done } }),
      restore(model, data) {
        grow(growable(model), (data as { done: number }).done, run?.optimizer)
      },
    }
  },
})
