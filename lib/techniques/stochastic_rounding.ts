// Weights of 16 bits without f32 masters: matrices and tables are bf16, gradients and the optimiser's state f32. An update is
// computed in f32 and rounded up or down at random, so that changes too small for bf16 (below 2^-9 of a weight) count on
// average; rounded to nearest, as bf16 does by itself, they are lost. Saves 2 bytes a weight, and with --precision bf16 the
// 2 of its copy. The random numbers depend on seed, step and place alone: the same on every device, and after a resume.
// Source: Zamirai et al., arXiv 2010.06192; Kalamkar et al., arXiv 1905.12322.
import type { Module } from '../nn/module'
import { scope } from '../tensor/scope'
import { defineTechnique } from './technique'

/** Puts the trained matrices and tables of a model in bf16. Vectors stay as they are. */
export function narrowWeights(model: Module<never, unknown>, { mode = 'stochastic', seed = 0 }: { mode?: 'stochastic' | 'nearest'; seed?: number } = {}): void {
  for (const [index, parameter] of model.parameters().entries()) {
    if (parameter.shape.length >= 2 && parameter.trainable && parameter.tensor.dtype === 'f32') scope(() => parameter.narrow({ mode, seed, index }))
  }
}

const average = 'an average of weights needs them in f32'
const neighbour = 'a step to a point nearby needs weights in f32'
const others = 'it computes other weights from f32 masters'

export const stochasticRounding = defineTechnique({
  name: 'stochastic_rounding',
  title: 'bf16 weights without f32 masters, updates rounded at random',
  category: 'low precision',
  source: 'Zamirai et al., arXiv 2010.06192',
  settings: {
    rounding: { default: 'stochastic', choices: ['stochastic', 'nearest'], help: 'of updates; nearest loses the small ones' },
    seed: { default: 0, min: 0, integer: true, help: 'of the rounding' },
  },
  excludes: {
    ...Object.fromEntries(['ema', 'swa', 'schedule_free'].map((name) => [name, average])),
    ...Object.fromEntries(['sam', 'asam', 'looksam', 'm_sam'].map((name) => [name, neighbour])),
    ...Object.fromEntries(['sr_ste', 'movement_pruning'].map((name) => [name, others])),
    ...Object.fromEntries(['sophia', 'sophia_curvature'].map((name) => [name, 'curvature is averaged beside weights in f32'])),
    ...Object.fromEntries(['set', 'prompt_tuning', 'prefix_tuning'].map((name) => [name, 'what it puts beside weights takes their format, and needs f32'])),
    adapters: 'adapters take the format of the weights beside them, and need f32',
    progressive_stacking: 'layers that come later would be f32',
  },
  neutral: 'none: weights of 16 bits are other weights',
  make: ({ rounding, seed }) => ({
    adapt: (model) => narrowWeights(model, { mode: rounding as 'stochastic' | 'nearest', seed }),
  }),
})
