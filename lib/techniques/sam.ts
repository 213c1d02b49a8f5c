// Sharpness-aware minimisation: the gradient of a step is taken at p + e with e = rho g / (|g| + 1e-12), where the norm is
// over all parameters; the parameters themselves come back bit for bit. Twice the work of a step. Adaptive (ASAM):
// e = rho T^2 g / |T g| with T = |p| + eta for weights and 1 for biases.
// Both passes see the same micro-batches and random numbers; frozen parameters do not move; decoupled weight decay does not
// enter e. With accumulation, e is made from the gradient of the whole step (m_sam has one for each micro-batch). A
// computation in 16 bits would round e away, so the second pass is in the masters' format unless told otherwise.
// Sources: Foret et al., arXiv 2010.01412; ASAM, Kwon et al., arXiv 2102.11600.
import { noGrad } from '../autograd/tape'
import type { Parameter } from '../nn/parameter'
import { membersOf, updateGroup } from '../optim/group'
import { keep } from '../tensor/scope'
import { run } from '../tensor/tensor'
import { defineTechnique, type GradientOptions, type StepContext, type TrainingRun } from './technique'

export interface SharpnessOptions {
  /** Radius of the ball in which the loss is looked at. */
  rho: number
  /** ASAM's eta; undefined for SAM. */
  eta?: number
  /** Which parameters move; default: all. */
  include?: (name: string) => boolean
  /** The second pass computes in the format of the run instead of the masters'. Default false. */
  sameFormat?: boolean
}

/** Moves the parameters by e, made from their gradients, in place. Returns what brings them back, bit for bit. */
export function ascend(parameters: Map<string, Parameter>, options: SharpnessOptions): () => void {
  const { rho, eta, include = () => true, sameFormat = false } = options
  const named = [...parameters].filter(([name, { grad }]) => grad !== null && include(name))
  if (!named.length) return () => {}
  return noGrad(() => {
    const formats = [...parameters.values()].map((parameter) => ({ parameter, format: parameter.copy?.dtype }))
    if (!sameFormat) for (const { parameter, format } of formats) if (format) parameter.setComputeDType(parameter.tensor.dtype)
    const members = membersOf(named)
    const scaled = eta === undefined ? [] : named.flatMap(([name], i) => (name.includes('weight') ? [i] : []))
    const saved = updateGroup('sam_ascend', members, { rho, eta: eta ?? 0, scaled }).map((tensor) => keep(tensor))
    return () =>
      noGrad(() => {
        for (const before of saved) {
          const copies = members.copies.some((copy) => copy !== null) ? members.copies : []
          run('sam_restore', [before, ...members.parameters, ...copies], { count: named.length })
          before.dispose()
        }
        if (!sameFormat) for (const { parameter, format } of formats) if (format) parameter.setComputeDType(format)
      })
  })
}

/**
 * SAM's gradients in the parameters' grad: `gradients` fills them (the same function of the parameters both times), here
 * and at the perturbed point.
 */
export function sharpnessAwareGradients(parameters: Map<string, Parameter>, gradients: (second: boolean) => void, options: SharpnessOptions): void {
  gradients(false)
  const restore = ascend(parameters, options)
  try {
    gradients(true)
  } finally {
    restore()
  }
}

/** Runs the rest of a step with other gradients in the place of its own. */
export function withGradients(context: StepContext, gradients: (plain: StepContext['gradients'], options?: GradientOptions) => void, next: () => void): void {
  const plain = context.gradients
  context.gradients = (options) => gradients(plain, options)
  try {
    next()
  } finally {
    context.gradients = plain
  }
}

export const sharpnessSettings = {
  only_norms: { default: false, help: 'move norm layers alone (SAM-ON)' },
  redraw: { default: false, help: 'new dropout masks in the second pass' },
  same_format: { default: false, help: 'second pass in the format of the run, which rounds small moves away in 16 bits' },
} as const

/** Settings as options. */
export function sharpnessOptions(values: { rho: number; only_norms: boolean; same_format: boolean; eta?: number }): SharpnessOptions {
  const { rho, eta, only_norms: onlyNorms, same_format: sameFormat } = values
  return { rho, eta, sameFormat, include: onlyNorms ? (name) => /(^|\.)norm\w*\./.test(name) : undefined }
}

/** What acts on every gradient of a step, or looks at the first one, must come before. */
export const inside = ['noise_scale', 'sr_ste'] as const

/** The hooks of a technique that takes the gradients of a whole step at the perturbed point. */
export function sharpnessHooks(options: SharpnessOptions, redraw: boolean) {
  let run: Pick<TrainingRun, 'parameters'>
  return {
    after: inside,
    setup: (given: Pick<TrainingRun, 'parameters'>) => void (run = given),
    step(next: () => void, context: StepContext) {
      const both = (plain: StepContext['gradients'], which?: GradientOptions) =>
        sharpnessAwareGradients(run.parameters, (second) => plain(second && redraw ? { ...which, redraw } : which), options)
      withGradients(context, both, next)
    },
  }
}

export const samEntry = defineTechnique({
  name: 'sam',
  title: 'Sharpness-aware minimisation',
  category: 'optimisation',
  source: 'Foret et al., arXiv 2010.01412',
  settings: { rho: { default: 0.05, min: 0, help: 'radius of the ball in which the loss is looked at' }, ...sharpnessSettings },
  decides: ['gradient_point'],
  neutral: { settings: { rho: 0, same_format: true } },
  make: ({ redraw, ...values }) => sharpnessHooks(sharpnessOptions(values), redraw),
})
