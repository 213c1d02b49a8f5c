// Update in backward: each parameter is updated in the backward pass as soon as its gradient is complete, and the gradient is
// released, so that the gradients of one layer are held at a time instead of those of the model: 4 bytes a parameter less, the
// same numbers bit for bit. The global norm is known only afterwards, so gradients cannot be clipped by it, unless they are those
// of the step before (delayed_update).
// Source: Lv et al., LOMO, arXiv 2306.09782, section 3.1; Pudipeddi et al., arXiv 2002.05645.
import { LeanformerError } from '../native/errors'
import { defineTechnique } from './technique'

const twice = 'it takes gradients more than once in a step'
const whole = 'it works on the gradients of all parameters'

export const updateInBackward = defineTechnique({
  name: 'update_in_backward',
  title: 'Update in backward: gradients are applied and released one by one',
  category: 'memory',
  source: 'Lv et al., arXiv 2306.09782',
  settings: {},
  excludes: {
    sam: twice, asam: twice, looksam: twice, m_sam: twice, noise_scale: twice, sophia_curvature: twice,
    zero_weights: whole,
  },
  neutral: 'none: it leaves clipping out; against a run without clipping it changes no bit',
  make: () => {
    let delayed = false
    return {
      after: ['delayed_update'],
      setup({ clip, techniques }) {
        delayed = techniques.has('delayed_update')
        if (clip === 0 || delayed) return
        throw new LeanformerError('ERR_OPTION', `update_in_backward: gradients are clipped to a global norm of ${clip}, which is known only after the backward pass`, 'do not clip: --clip 0, or clip: 0 for the trainer')
      },
      step(next, context) {
        if (context.lossScale !== 1) throw new LeanformerError('ERR_OPTION', 'update_in_backward: whether a scaled step must be skipped is known only after it', 'use f32 or bf16')
        context.updateInBackward = !delayed || context.late !== null
        next()
      },
    }
  },
})
