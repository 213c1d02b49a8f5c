// Nesterov's accelerated gradient, as SGD with nesterov on and a momentum of 0.9. Source: Sutskever et al., ICML 2013.
import { SGD, type SGDOptions } from './sgd'
import type { ParameterGroup } from './optimizer'

export class Nesterov extends SGD {
  constructor(groups: ParameterGroup[], options: Pick<SGDOptions, 'momentum'> = {}) {
    super(groups, { momentum: options.momentum ?? 0.9, nesterov: true })
  }
}
