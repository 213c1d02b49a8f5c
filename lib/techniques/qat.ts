// Quantisation-aware training: the matrices of attention and feed-forward, and what goes into them, lie on grids of few bits
// while masters in full precision are trained through them (nn/fake_quantised.ts). Before `start` of the run grids are only
// measured; after `freeze` the moving averages stay. exportQat() then gives the integer model that training saw.
// Grids come from the extremes (minmax) or are trained: steps (lsq), steps and an offset of inputs (lsq_plus), the clip of inputs
// (pact), to whose loss penalty * sum clip^2 is added. Trained steps may follow the squared error of their grid instead.
// It makes no step faster: it costs time so that the exported model loses less. For models that are trained already, with a
// learning rate of 1 to 10 % of the first. Sources: Jacob et al., arXiv 1712.05877; Esser et al., arXiv 1902.08153; Bhalgat et
// al., arXiv 2004.09576; Choi et al., arXiv 1805.06085; Tang et al., arXiv 2203.13483.
import { exportQuantised, FakeQuantised, type FakeQuantisedOptions } from '../nn/fake_quantised'
import type { Linear } from '../nn/linear'
import { linearTargets } from '../nn/linear_parts'
import { MLP } from '../nn/mlp'
import type { Module } from '../nn/module'
import { LeanformerError } from '../native/errors'
import { add, scale, square } from '../ops/elementwise'
import { reshape } from '../ops/reshape'
import { hiddenProducts, productExcludes } from './products'
import { defineTechnique } from './technique'

/** Layers whose inputs come from ReLU. */
function afterRelu(model: Module<never, unknown>): Set<Linear> {
  const blocks = model.namedModules().map(([, module]) => module as unknown)
  return new Set(blocks.flatMap((module) => (module instanceof MLP && module.activation === 'relu' && !module.downShift ? [module.down] : [])))
}

/** Puts the matrices of attention and feed-forward, and their inputs, on grids. */
export function addQat(model: Module<never, unknown>, options: FakeQuantisedOptions): FakeQuantised[] {
  const positive = options.method === 'pact' ? afterRelu(model) : new Set()
  return hiddenProducts(model, 'qat').map((layer) => {
    const grid = new FakeQuantised(layer, positive.has(layer) ? { ...options, positive: true } : options)
    layer.adapter = grid
    return grid
  })
}

/** The integer model that was trained: codes in place of weights; layers whose inputs lie on grids multiply integers. */
export function exportQat(model: Module<never, unknown>): void {
  const layers = linearTargets(model).map(({ layer }) => layer)
  if (!layers.some(({ adapter }) => adapter instanceof FakeQuantised)) {
    throw new LeanformerError('ERR_ARGUMENT', 'exportQat: the model was not trained for it', 'use the technique qat, or quantise() for a plain model')
  }
  exportQuantised(layers)
}

export const qat = defineTechnique({
  name: 'qat',
  title: 'Quantisation-aware training: weights and inputs on grids of few bits',
  category: 'low precision',
  source: 'Jacob et al., arXiv 1712.05877; LSQ: Esser et al., arXiv 1902.08153; LSQ+: arXiv 2004.09576; PACT: arXiv 1805.06085',
  settings: {
    bits: { default: 8, min: 0, max: 8, integer: true, help: 'of the weights, from 2; 0: off' },
    input_bits: { default: 8, min: 0, max: 8, integer: true, help: 'of the inputs of products, from 2; 0: as they are' },
    method: { default: 'minmax', choices: ['minmax', 'lsq', 'lsq_plus', 'pact'], help: 'steps from the extremes; trained; and offsets of inputs; or clips of inputs alone' },
    follow: { default: 'loss', choices: ['loss', 'error'], help: 'what steps of lsq and lsq_plus are trained by: the loss, or the squared error of their grid' },
    penalty: { default: 1e-4, min: 0, help: 'pact: weight of the squares of its clips in the loss' },
    weights: { default: 'channel', choices: ['channel', 'tensor'], help: 'one step for each output, or for all' },
    inputs: { default: 'token', choices: ['token', 'tensor'], help: 'one step for each token, or a moving average for all' },
    start: { default: 0, min: 0, max: 1, help: 'share of the run before which grids are only measured' },
    freeze: { default: 0.9, min: 0, max: 1, help: 'share of the run after which moving averages stay' },
  },
  excludes: {
    ...productExcludes('qat'),
    sr_ste: 'both give layers other weights than the masters',
    movement_pruning: 'both give layers other weights than the masters',
    importance_sampling: 'norms of single gradients are not known for weights on a grid',
  },
  neutral: { settings: { bits: 0 } },
  make: ({ bits, input_bits: inputBits, method, follow, penalty, weights, inputs, start, freeze }) => {
    let grids: FakeQuantised[] = []
    let steps = 1
    // Of what is added once a micro-batch to gradients or to the loss.
    let share = 1
    const off = bits === 0
    if (follow === 'error' && method !== 'lsq' && method !== 'lsq_plus') {
      throw new LeanformerError('ERR_OPTION', `qat: follow is error, but method ${method} trains no steps`, 'give method=lsq or method=lsq_plus')
    }
    for (const [name, value] of Object.entries({ bits, input_bits: inputBits })) {
      if (value === 1) throw new LeanformerError('ERR_OPTION', `qat: ${name} is 1`, 'give 0 or 2 to 8')
    }
    return {
      adapt(model) {
        if (!off) grids = addQat(model, { bits, inputBits, method, weights, inputs, follow } as FakeQuantisedOptions)
      },
      setup: (run) => void (steps = run.steps),
      loss(loss) {
        const clips = penalty ? grids.flatMap((grid) => (grid.enabled ? (grid.clip ?? []) : [])) : []
        return clips.reduce((sum, clip) => add(sum, scale(reshape(square(clip), []), penalty * share)), loss)
      },
      step(next, { step, lossScale, batches }) {
        share = lossScale / batches.length
        for (const grid of grids) {
          grid.errorWeight = share
          grid.enabled = step >= start * steps
          grid.observing = step < freeze * steps
        }
        next()
        for (const grid of grids) grid.fold()
      },
    }
  },
})
