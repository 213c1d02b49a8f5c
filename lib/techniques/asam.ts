// Adaptive sharpness-aware minimisation: SAM in a ball whose axes are the sizes of the parameters, so that rescaling a layer
// does not change what is sharp; see sam.ts for the formula. Defaults are those of the authors' code (the popular wrapper
// has rho 2 and no eta). Source: Kwon et al., arXiv 2102.11600.
import { sharpnessHooks, sharpnessOptions, sharpnessSettings } from './sam'
import { defineTechnique } from './technique'

export const asamEntry = defineTechnique({
  name: 'asam',
  title: 'Adaptive sharpness-aware minimisation',
  category: 'optimisation',
  source: 'Kwon et al., arXiv 2102.11600',
  settings: {
    rho: { default: 0.5, min: 0, help: 'radius of the ball, in units of the size of the parameters' },
    eta: { default: 0.01, min: 0, help: 'added to the size of every weight' },
    ...sharpnessSettings,
  },
  decides: ['gradient_point'],
  neutral: { settings: { rho: 0, same_format: true } },
  make: ({ redraw, ...values }) => sharpnessHooks(sharpnessOptions(values), redraw),
})
