// Nesterov's accelerated gradient, as SGD with nesterov on and a momentum of 0.9. Source: Sutskever et al., ICML 2013.
import { SGD, type SGDOptions } from './sgd'
import { defineOptimizer, type ParameterGroup } from './optimizer'

export class Nesterov extends SGD {
  constructor(groups: ParameterGroup[], options: Pick<SGDOptions, 'momentum'> = {}) {
    super(groups, { momentum: options.momentum ?? 0.9, nesterov: true })
  }
}

export const nesterovEntry = defineOptimizer({
  name: 'nesterov',
  title: "Nesterov's accelerated gradient",
  source: 'Sutskever et al., ICML 2013',
  settings: { momentum: { default: 0.9, min: 0.000001, max: 0.999999, help: 'share of the last step kept' } },
  make: (groups, options) => new Nesterov(groups, options),
})
