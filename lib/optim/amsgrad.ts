// AMSGrad: Adam whose step divides by the largest second moment so far, so that no step grows because a gradient was
// forgotten. The maximum is over the moments before bias correction. Source: Reddi et al., ICLR 2018.
import { Adam, type AdamOptions } from './adam'
import { defineOptimizer, type ParameterGroup } from './optimizer'

export class AMSGrad extends Adam {
  constructor(groups: ParameterGroup[], options: Omit<AdamOptions, 'amsgrad'> = {}) {
    super(groups, { ...options, amsgrad: true })
  }
}

export const amsgradEntry = defineOptimizer({
  name: 'amsgrad',
  title: 'Adam that never forgets its largest second moment',
  source: 'Reddi et al., ICLR 2018',
  settings: {
    beta1: { default: 0.9, min: 0, max: 0.999999, help: 'decay of the first moment' },
    beta2: { default: 0.999, min: 0, max: 0.999999, help: 'decay of the second moment' },
    eps: { default: 1e-8, min: 0, help: 'added to the root of the second moment' },
    decoupled: { default: true, help: 'weight decay off the parameter (AdamW) and not in the gradient' },
  },
  make: (groups, options) => new AMSGrad(groups, options),
})
