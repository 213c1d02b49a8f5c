// RigL: sparse from the start. Every `every` steps until `stop` of the run, each matrix drops the share
// f(t) = alpha / 2 (1 + cos(pi t / T_end)) of its kept weights with the smallest |w| and grows as many where the gradient of
// the masked weights is largest; grown weights start at 0. The dense gradient is needed at those steps alone, which, as in
// the reference, update the masks instead of the weights. Densities are even, or Erdos-Renyi: in proportion to
// (n_in + n_out) / (n_in n_out), which leaves thin matrices denser. Sources: Evci et al., arXiv 1911.11134 and its code.
import { noGrad } from '../autograd/tape'
import { abs } from '../ops/elementwise'
import { cast } from '../ops/cast'
import { scope } from '../tensor/scope'
import type { Parameter } from '../nn/parameter'
import type { Optimizer } from '../optim/optimizer'
import { dropAndGrow, gradientTechniques, maskableOf, maskedStep, Masks, sparseInPlace } from './masks'
import { defineTechnique } from './technique'

/** Share of the kept weights that are replaced at step t. */
export function dropFraction(t: number, end: number, alpha: number): number {
  return t >= end ? 0 : (alpha / 2) * (1 + Math.cos((Math.PI * t) / end))
}

/** Densities by name that leave `density` of all weights: min(1, eps (sum of sizes) / (product of sizes)) with one eps. */
export function erdosRenyiDensities(shapes: ReadonlyMap<string, readonly number[]>, density: number): Map<string, number> {
  const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1)
  const share = (shape: readonly number[]) => shape.reduce((a, b) => a + b, 0) / product(shape)
  const dense = new Set<string>()
  for (;;) {
    let wanted = 0
    let weight = 0
    for (const [name, shape] of shapes) {
      if (dense.has(name)) wanted -= (1 - density) * product(shape)
      else {
        wanted += density * product(shape)
        weight += share(shape) * product(shape)
      }
    }
    const eps = weight > 0 ? wanted / weight : 0
    const over = [...shapes].filter(([name, shape]) => !dense.has(name) && eps * share(shape) > 1)
    if (!over.length) return new Map([...shapes].map(([name, shape]) => [name, dense.has(name) ? 1 : eps * share(shape)]))
    for (const [name] of over) dense.add(name)
  }
}

export function startingDensities(shapes: ReadonlyMap<string, readonly number[]>, density: number, distribution: string): Map<string, number> {
  return distribution === 'uniform' ? new Map([...shapes.keys()].map((name) => [name, density])) : erdosRenyiDensities(shapes, density)
}

/** Random masks for the hidden matrices of a model. */
export function startMasks(
  parameters: Map<string, Parameter>,
  optimizer: Optimizer | null,
  { density, distribution, seed }: { density: number; distribution: string; seed: number },
): Masks {
  const masks = new Masks(maskableOf(parameters), optimizer)
  masks.startRandom(startingDensities(new Map([...masks.parameters].map(([name, { shape }]) => [name, shape])), density, distribution), seed)
  return masks
}

/** Replaces the masks of all matrices by their weights' and present (dense) gradients' sizes. */
export function growByGradient(masks: Masks, fraction: number): void {
  for (const [name, parameter] of masks.parameters) {
    const active = masks.active.get(name)!
    const drop = Math.floor(fraction * active)
    if (!drop || !parameter.grad) continue
    const growth = abs(cast(parameter.grad, 'f32'))
    noGrad(() => scope(() => masks.set(name, dropAndGrow(parameter.tensor, masks.masks.get(name)!, active, drop, growth), active)))
  }
}

export const densitySettings = {
  density: { default: 0.1, min: 0.0001, max: 1, help: 'share of the weights of hidden matrices that are kept' },
  seed: { default: 0, min: 0, integer: true, help: 'of the first masks' },
  distribution: { default: 'erk', choices: ['erk', 'uniform'], help: 'density of each matrix: by its shape, or the same' },
} as const

export const riglEntry = defineTechnique({
  name: 'rigl',
  title: 'Sparse training that grows weights where gradients are large',
  category: 'sparse training',
  source: 'Evci et al., arXiv 1911.11134',
  settings: {
    ...densitySettings,
    every: { default: 100, min: 1, integer: true, help: 'steps between changes of the masks' },
    alpha: { default: 0.3, min: 0, max: 1, help: 'share of the weights replaced at first' },
    stop: { default: 0.75, min: 0, max: 1, help: 'share of the run after which masks stay' },
  },
  ...sparseInPlace,
  neutral: { settings: { density: 1 } },
  make: ({ density, distribution, seed, every, alpha, stop }) => {
    let masks: Masks
    let end = 0
    return {
      after: gradientTechniques,
      setup({ parameters, optimizer, steps }) {
        if (density === 1) return
        masks = startMasks(parameters, optimizer, { density, distribution, seed })
        end = stop * steps
      },
      step(next, context) {
        if (density === 1) return next()
        const { step } = context
        const updates = step > 0 && step % every === 0 && step < end
        context.hold ||= updates
        maskedStep(masks, next, context, () => {
          if (updates) growByGradient(masks, dropFraction(step, end, alpha))
          masks.maskGradients()
        })
      },
      summary: () => (density === 1 ? Promise.resolve([]) : masks.summary('rigl')),
      state: () => (density === 1 ? {} : masks.state()),
      load: (state) => density < 1 && masks.load(state),
    }
  },
})

