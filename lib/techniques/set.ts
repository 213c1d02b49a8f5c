// SET, sparse evolutionary training: every `every` steps each matrix drops the share zeta of its kept weights with the
// smallest |w| and grows as many at random places, with fresh normal values. The number of kept weights of a matrix never
// changes. Source: Mocanu et al., arXiv 1707.04780.
import { noGrad } from '../autograd/tape'
import { add, mul, mulScalar, sub } from '../ops/elementwise'
import { rand, randn } from '../ops/random'
import { writeSlice } from '../ops/slice'
import { Generator } from '../tensor/random'
import { scope } from '../tensor/scope'
import { dropAndGrow, maskedStep, type Masks, sparseInPlace } from './masks'
import { densitySettings, startMasks } from './rigl'
import { defineTechnique } from './technique'

/** Drops and grows in all matrices; `std` is the deviation of grown weights, 0 for zeros. */
export function growAtRandom(masks: Masks, zeta: number, std: number, generator: Generator): void {
  for (const [name, parameter] of masks.parameters) {
    const active = masks.active.get(name)!
    const drop = Math.floor(zeta * active)
    if (!drop) continue
    const { shape, tensor } = parameter
    const options = { generator, device: tensor.device }
    noGrad(() =>
      scope(() => {
        const before = masks.masks.get(name)!
        const mask = dropAndGrow(tensor, before, active, drop, rand(shape, options))
        // What is kept by both masks keeps its value; what is only in the new one starts afresh.
        const fresh = mul(sub(mask, mul(mask, before)), mulScalar(randn(shape, options), std))
        const start = add(mul(tensor, mul(mask, before)), fresh)
        masks.set(name, mask, active)
        writeSlice(tensor, start, shape.map(() => 0))
        parameter.refresh()
      }),
    )
  }
}

export const setEntry = defineTechnique({
  name: 'set',
  title: 'Sparse evolutionary training: weights grow at random places',
  category: 'sparse training',
  source: 'Mocanu et al., arXiv 1707.04780',
  settings: {
    ...densitySettings,
    every: { default: 100, min: 1, integer: true, help: 'steps between changes of the masks' },
    zeta: { default: 0.3, min: 0, max: 1, help: 'share of the weights replaced' },
    std: { default: 0.02, min: 0, help: 'standard deviation of grown weights; 0: they start at 0' },
  },
  ...sparseInPlace,
  neutral: { settings: { density: 1 } },
  make: ({ density, distribution, seed, every, zeta, std }) => {
    let masks: Masks
    return {
      setup({ parameters, optimizer }) {
        if (density < 1) masks = startMasks(parameters, optimizer, { density, distribution, seed })
      },
      step(next, context) {
        if (density === 1) return next()
        maskedStep(masks, next, context, () => masks.maskGradients())
        const done = context.step + 1
        if (done % every === 0) growAtRandom(masks, zeta, std, new Generator(seed + 1 + done))
      },
      summary: () => (density === 1 ? Promise.resolve([]) : masks.summary('set')),
      state: () => (density === 1 ? {} : masks.state()),
      load: (state) => density < 1 && masks.load(state),
    }
  },
})
