// BitFit: only the biases of a model are trained, and its head. Source: Ben Zaken et al., arXiv 2106.10199.
import { LeanformerError } from '../native/errors'
import type { Module } from '../nn/module'
import { defineTechnique } from './technique'
import { isHead, trainOnly } from './train_only'

/** Freezes all but biases and heads; returns how many numbers are trained. @throws ERR_ARGUMENT for a model without biases */
export function tuneBiases(model: Module<never, unknown>): number {
  const isBias = (path: string) => /(^|[._])bias$/.test(path)
  if (![...model.namedParameters().keys()].some(isBias)) {
    throw new LeanformerError('ERR_ARGUMENT', 'bitfit: the model has no biases, which are all that it trains', 'build the model with bias: true (--bias)')
  }
  return trainOnly(model, (path) => isBias(path) || isHead(path))
}

export const bitfit = defineTechnique({
  name: 'bitfit',
  title: 'BitFit: only biases and heads are trained',
  category: 'parameter-efficient tuning',
  source: 'Ben Zaken et al., arXiv 2106.10199',
  settings: {},
  decides: ['trained_parameters'],
  excludes: { fixup: 'its layers have no biases' },
  neutral: { settings: {}, until: 'first update' },
  make: () => ({ after: ['distil'], adapt: (model) => void tuneBiases(model) }),
})
