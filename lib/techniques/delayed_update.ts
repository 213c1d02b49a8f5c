// Delayed update: the gradients of step t are applied in step t + 1, after that step's own were taken. Costs one step of
// staleness, and a copy of the gradients; off by default, and on only after some steps of warm-up. The last step's gradients are
// never applied. With update_in_backward each is applied in the backward pass of step t + 1, as soon as its parameter has its new
// gradient: the same numbers, but clipped all the same, since the norm is known by then, and state that is offloaded comes and
// goes beside the whole pass.
// Source: Ren et al., ZeRO-Offload, arXiv 2101.06840, section 5.
import { LeanformerError } from '../native/errors'
import { clipGradNorm } from '../ops/clip'
import { keep } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { defineTechnique, type LateGradients, type TrainingRun } from './technique'

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
    let run: TrainingRun
    let inBackward = false
    // Where gradients are offloaded, those that wait are away.
    const wait = (grad: Tensor) => {
      const { paging } = run.optimizer
      if (inBackward && paging?.gradients) paging.pager.pageOut(grad)
    }
    const exchange: LateGradients['exchange'] = (name, parameter) => {
      const [fresh, late] = [parameter.grad, waiting.get(name) ?? null]
      waiting.delete(name)
      if (fresh) {
        waiting.set(name, fresh)
        wait(fresh)
      }
      parameter.tensor.grad = late
    }
    return {
      setup(given) {
        run = given
      },
      step(next, context) {
        if (context.lossScale !== 1) throw new LeanformerError('ERR_OPTION', 'delayed_update: gradients of another loss scale cannot be applied', 'use f32 or bf16')
        // Nothing waits yet.
        if (context.step === from) context.hold = true
        inBackward = run.techniques.has('update_in_backward') && context.step > from && waiting.size > 0
        if (inBackward) {
          const grads = [...run.parameters.keys()].flatMap((name) => waiting.get(name) ?? [])
          context.late = { ...clipGradNorm(grads, { maxNorm: run.clip }), exchange }
          grads.forEach(wait)
        }
        next()
      },
      grads(parameters, step) {
        if (step < from || inBackward) return
        for (const [name, parameter] of parameters) {
          if (step > from) exchange(name, parameter)
          else if (parameter.grad) waiting.set(name, keep(parameter.grad.alias()))
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
