// LookSAM: SAM's second pass at every k-th step alone. The part of SAM's gradient across the plain one,
// v = g_s - (g_s g / |g|^2) g, changes slowly; the steps between use g + alpha |g| / |v| v. The cost of a step falls from 2
// to 1 + 1 / k. v is part of the checkpoint. Source: Liu et al., arXiv 2203.02714.
import { noGrad } from '../autograd/tape'
import type { Parameter } from '../nn/parameter'
import { clipGradNorm } from '../ops/clip'
import { copy } from '../ops/copy'
import { add, addScalar, div, mul, mulScalar, sub } from '../ops/elementwise'
import { sum } from '../ops/reductions'
import { reshape } from '../ops/reshape'
import { keep, scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { inside, sharpnessAwareGradients, sharpnessOptions, sharpnessSettings, withGradients } from './sam'
import { defineTechnique, type TrainingRun } from './technique'

const norm = (tensors: Tensor[]) => reshape(clipGradNorm(tensors, { maxNorm: 0 }).norm, [])
const dot = (a: Tensor[], b: Tensor[]) => a.map((x, i) => sum(mul(x, b[i]))).reduce((x, y) => add(x, y))

/** The part of `sharp` that stands across `plain`, taken over all tensors together. */
export function acrossGradient(sharp: Tensor[], plain: Tensor[]): Tensor[] {
  const share = div(dot(sharp, plain), addScalar(dot(plain, plain), 1e-24))
  return sharp.map((x, i) => sub(x, mul(plain[i], share)))
}

/** plain + alpha |plain| / |across| across. */
export function reuseAcross(plain: Tensor[], across: Tensor[], alpha: number): Tensor[] {
  const factor = mulScalar(div(norm(plain), addScalar(norm(across), 1e-12)), alpha)
  return plain.map((x, i) => add(x, mul(across[i], factor)))
}

function replaceGradients(named: [string, Parameter][], values: Tensor[]): void {
  named.forEach(([, parameter], i) => {
    parameter.zeroGrad()
    parameter.tensor.grad = keep(values[i])
  })
}

export const lookSamEntry = defineTechnique({
  name: 'looksam',
  title: 'Sharpness-aware minimisation with a second pass now and then',
  category: 'optimisation',
  source: 'Liu et al., arXiv 2203.02714',
  settings: {
    rho: { default: 0.05, min: 0, help: 'radius of the ball in which the loss is looked at' },
    every: { default: 5, min: 1, integer: true, help: 'steps between the steps with a second pass' },
    alpha: { default: 0.7, min: 0, help: 'weight of the remembered direction in the other steps' },
    ...sharpnessSettings,
  },
  decides: ['gradient_point'],
  neutral: { settings: { rho: 0, same_format: true } },
  make: ({ every, alpha, redraw, ...values }) => {
    const options = sharpnessOptions(values)
    let run: TrainingRun
    let across = new Map<string, Tensor>()
    return {
      after: inside,
      setup: (given) => void (run = given),
      step(next, context) {
        const { parameters } = run
        const measures = context.step % every === 0 || across.size === 0
        withGradients(
          context,
          (plain, which) => {
            if (!measures) {
              plain(which)
              const named = [...parameters].filter(([name, { grad }]) => grad && across.has(name))
              if (!named.length) return
              const grads = named.map(([, { grad }]) => grad!)
              noGrad(() => scope(() => replaceGradients(named, reuseAcross(grads, named.map(([name]) => across.get(name)!), alpha))))
              return
            }
            let before = new Map<string, Tensor>()
            const both = (second: boolean) => {
              if (second) {
                before = new Map([...parameters].flatMap(([name, { grad }]) => (grad ? [[name, keep(copy(grad))] as const] : [])))
              }
              plain(second && redraw ? { ...which, redraw } : which)
            }
            sharpnessAwareGradients(parameters, both, options)
            const named = [...parameters].filter(([name, { grad }]) => grad && before.has(name))
            if (!named.length) return
            const old = [...across.values()]
            noGrad(() =>
              scope(() => {
                const values = acrossGradient(named.map(([, { grad }]) => grad!), named.map(([name]) => before.get(name)!))
                across = new Map(named.map(([name], i) => [name, keep(values[i])]))
              }),
            )
            for (const tensor of [...old, ...before.values()]) tensor.dispose()
          },
          next,
        )
      },
      state: () => ({ tensors: across }),
      load: ({ tensors }) => void (across = tensors),
    }
  },
})
