// Delayed update: the gradients of step t are applied in step t + 1, after that step's own were taken, so that an update of
// offloaded state has a whole step's time to run beside it. Costs one step of staleness, and a copy of the gradients; off by
// default, and on only after some steps of warm-up. The last step's gradients are never applied.
// Source: Ren et al., ZeRO-Offload, arXiv 2101.06840, section 5.
import { LeanformerError } from '../native/errors'
import { keep } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { defineTechnique } from './technique'

const twice = 'it takes gradients more than once in a step'

export const delayedUpdate = defineTechnique({
  name: 'delayed_update',
  title: 'Delayed update: gradients are applied one step later',
  category: 'memory',
  source: 'Ren et al., arXiv 2101.06840',
  settings: { from: { default: 40, min: 0, integer: true, help: 'first step whose gradients wait' } },
  excludes: { sam: twice, asam: twice, looksam: twice, m_sam: twice, noise_scale: twice, sophia_curvature: twice },
  neutral: { settings: { from: 1e9 } },
  make: ({ from }) => {
    const waiting = new Map<string, Tensor>()
    return {
      step(next, context) {
        if (context.lossScale !== 1) throw new LeanformerError('ERR_OPTION', 'delayed_update: gradients of another loss scale cannot be applied', 'use f32 or bf16')
        // Nothing waits yet.
        if (context.step === from) context.hold = true
        next()
      },
      grads(parameters, step) {
        if (step < from) return
        for (const [name, parameter] of parameters) {
          const [fresh, late] = [parameter.grad, waiting.get(name) ?? null]
          waiting.delete(name)
          if (fresh) waiting.set(name, step === from ? keep(fresh.alias()) : fresh)
          if (step > from) parameter.tensor.grad = late
        }
      },
      state: () => ({ tensors: new Map(waiting) }),
      load({ tensors }) {
        for (const tensor of waiting.values()) tensor.dispose()
        waiting.clear()
        for (const [name, tensor] of tensors) waiting.set(name, tensor)
      },
    }
  },
})
