// Sharpness-aware minimisation: the gradient of a step is taken at p + e with e = rho g / (|g| + 1e-12), where the norm is
// over all parameters; the parameters themselves come back bit for bit. Twice the work of a step. Adaptive (ASAM):
// e = rho T^2 g / |T g| with T = |p| + eta for weights and 1 for biases.
// Both passes see the same micro-batches and random numbers; frozen parameters do not move; decoupled weight decay does not
// enter e. With accumulation, e is made from the gradient of the whole step (m_sam has one for each micro-batch). A
// computation in 16 bits would round e away, so the second pass is in the masters' format unless told otherwise.
// Sources: Foret et al., arXiv 2010.01412; ASAM, Kwon et al., arXiv 2102.11600.
import { noGrad } from '../autograd/tape'
import type { Parameter } from '../nn/parameter'
import { clipGradNorm } from '../ops/clip'
import { concat } from '../ops/concat'
import { copy } from '../ops/copy'
import { zeros } from '../ops/creation'
import { abs, addScalar, mul, reciprocal } from '../ops/elementwise'
import { writeSlice } from '../ops/slice'
import { updateGroup } from '../optim/group'
import { scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { defineTechnique, type GradientOptions, type StepContext } from './technique'

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

/** What T g and T^2 g are for ASAM; both g for SAM. */
function directions(named: [string, Parameter][], eta: number | undefined): { scaled: Tensor[]; moves: Tensor[] } {
  const grads = named.map(([, { grad }]) => grad!)
  if (eta === undefined) return { scaled: grads, moves: grads }
  const sizes = named.map(([name, { tensor }]) => (name.includes('weight') ? addScalar(abs(tensor), eta) : null))
  const times = (tensors: Tensor[]) => tensors.map((x, i) => (sizes[i] ? mul(x, sizes[i]) : x))
  const scaled = times(grads)
  return { scaled, moves: times(scaled) }
}

/** Moves the parameters by e, made from their gradients, in place. Returns what brings them back, bit for bit. */
export function ascend(parameters: Map<string, Parameter>, options: SharpnessOptions): () => void {
  const { rho, eta, include = () => true, sameFormat = false } = options
  const named = [...parameters].filter(([name, { grad }]) => grad !== null && include(name))
  return noGrad(() => {
    const { scaled, moves } = directions(named, eta)
    const { norm } = clipGradNorm(scaled, { maxNorm: 0 })
    const factor = concat([reciprocal(addScalar(norm, 1e-12)), zeros([1], { dtype: norm.dtype, device: norm.device })])
    const masters = named.map(([, { tensor }]) => tensor)
    const before = masters.map((master) => copy(master))
    const formats = [...parameters.values()].map((parameter) => ({ parameter, format: parameter.copy?.dtype }))
    if (!sameFormat) for (const { parameter, format } of formats) if (format) parameter.setComputeDType(parameter.tensor.dtype)
    const copies = named.map(([, parameter]) => parameter.copy)
    updateGroup('scaled_add', { parameters: masters, grads: moves, copies, clip: factor }, { decay: 1, factor: rho })
    return () =>
      noGrad(() =>
        scope(() => {
          named.forEach(([, parameter], i) => {
            writeSlice(parameter.tensor, before[i], parameter.shape.map(() => 0))
            before[i].dispose()
            if (sameFormat) parameter.refresh()
          })
          if (!sameFormat) for (const { parameter, format } of formats) if (format) parameter.setComputeDType(format)
        }),
      )
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

/** The hooks of a technique that takes the gradients of a whole step at the perturbed point. */
export function sharpnessHooks(options: SharpnessOptions, redraw: boolean) {
  let parameters: Map<string, Parameter>
  return {
    setup: (run: { parameters: Map<string, Parameter> }) => void (parameters = run.parameters),
    step(next: () => void, context: StepContext) {
      const both = (plain: StepContext['gradients'], which?: GradientOptions) =>
        sharpnessAwareGradients(parameters, (second) => plain(second && redraw ? { ...which, redraw } : which), options)
      withGradients(context, both, next)
    },
  }
}

const others = ['asam', 'looksam', 'm_sam']

export const samEntry = defineTechnique({
  name: 'sam',
  title: 'Sharpness-aware minimisation',
  category: 'optimisation',
  source: 'Foret et al., arXiv 2010.01412',
  settings: { rho: { default: 0.05, min: 0, help: 'radius of the ball in which the loss is looked at' }, ...sharpnessSettings },
  excludes: Object.fromEntries(others.map((name) => [name, 'both move the parameters before the gradient is taken'])),
  make: ({ redraw, ...values }) => sharpnessHooks(sharpnessOptions(values), redraw),
})
