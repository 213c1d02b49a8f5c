// LARS: published trace, the length of a step, invariance to scales, the clipped form.
import { LARS } from '../../lib/optim/lars'
import { SGD } from '../../lib/optim/sgd'
import { Parameter } from '../../lib/nn/parameter'
import { keep } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { expectContract, expectTrace, follow } from '../support/optimizers'

test('the published trace with weight decay 0.1', async () => {
  expectTrace(await follow((parameters) => new LARS([{ parameters, weightDecay: 0.1 }])), [
    [0.9999, -1.9998],
    [0.9996864048, -1.9996818053],
    [0.9996173449, -1.9995292526],
  ], 1e-10)
})

/** The first step on a 2 x 2 matrix, and its length over that of the matrix. */
async function firstStep(w: number[], g: number[], options = {}, parts: number[] | null = null, lr = 0.1) {
  const parameter = new Parameter(tensor(w, [2, 2], { dtype: 'f64' }))
  parameter.parts = parts
  parameter.tensor.grad = keep(tensor(g, [2, 2], { dtype: 'f64' }))
  const optimizer = new LARS([{ parameters: new Map([['p', parameter]]) }], options)
  optimizer.step(lr)
  const moved = Array.from(await parameter.tensor.toFloat64(), (x, i) => x - w[i])
  optimizer.dispose()
  parameter.dispose()
  return { moved, ratio: Math.hypot(...moved) / Math.hypot(...w) }
}

test('the first step is lr times trust times the norm, whatever the scale of the gradient', async () => {
  const w = [1, -2, 0.5, 3]
  const g = [0.1, 0.2, -0.3, 0.4]
  const plain = await firstStep(w, g)
  expect(plain.ratio).toBeCloseTo(0.1 * 0.001, 14)
  const scaled = await firstStep(w.map((x) => 7 * x), g.map((x) => 1e-3 * x))
  scaled.moved.forEach((x, i) => expect(x / plain.moved[i]).toBeCloseTo(7, 10))
})

test('the parts of a fused matrix have rates of their own', async () => {
  const { moved } = await firstStep([1, 0, 100, 0], [1, 0, 0, 1], {}, [1, 1])
  expect(moved[0]).toBeCloseTo(-1e-4, 14)
  expect(moved[3]).toBeCloseTo(-1e-2, 14)
})

test('LARC never exceeds the plain rate', async () => {
  const { moved } = await firstStep([100, 0, 0, 0], [1e-3, 0, 0, 0], { clipRate: true })
  expect(moved[0]).toBeCloseTo(-0.1 * 1e-3, 13)
})

test('vectors without weight decay take momentum steps', async () => {
  const lars = await follow((parameters) => new LARS([{ parameters }]))
  expectTrace(lars, await follow((parameters) => new SGD([{ parameters }], { momentum: 0.9 })), 1e-14)
})

test('skips, clips, copies and resumes exactly', () => expectContract((groups) => new LARS(groups)))
