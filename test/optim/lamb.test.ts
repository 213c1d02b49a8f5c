// LAMB: published trace, the length of the first step, Adam's direction without the ratio, parts of fused matrices.
import { LAMB } from '../../lib/optim/lamb'
import { AdamW } from '../../lib/optim/adamw'
import { Parameter } from '../../lib/nn/parameter'
import { keep } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { expectContract, expectTrace, follow, gradients } from '../support/optimizers'

test('the published trace with weight decay 0.1', async () => {
  expectTrace(await follow((parameters) => new LAMB([{ parameters, weightDecay: 0.1 }])), [
    [0.848903784, -1.8351669527],
    [0.6499753701, -1.8713918053],
    [0.7494798093, -2.0426945177],
  ], 1e-10)
})

test('the first step of every matrix is lr times its norm, in f32 to 1e-6, also for the parts of a fused one', async () => {
  const shape = [300, 70]
  const values = (phase: number) => Float32Array.from({ length: 21000 }, (_, i) => Math.cos(i * 0.37 + phase))
  const parameter = new Parameter(tensor(values(0), shape))
  parameter.parts = [100, 200]
  parameter.tensor.grad = keep(tensor(values(1), shape))
  const optimizer = new LAMB([{ parameters: new Map([['p', parameter]]), weightDecay: 0.1 }])
  const before = await parameter.tensor.toFloat64()
  optimizer.step(0.01)
  const after = await parameter.tensor.toFloat64()
  for (const [from, to] of [[0, 7000], [7000, 21000]]) {
    const norm = (f: (i: number) => number) => Math.sqrt(Array.from({ length: to - from }, (_, k) => f(from + k) ** 2).reduce((a, b) => a + b))
    expect(Math.abs(norm((i) => after[i] - before[i]) / norm((i) => before[i]) / 0.01 - 1)).toBeLessThan(1e-6)
  }
  optimizer.dispose()
  parameter.dispose()
})

test('vectors without weight decay take the step of Adam', async () => {
  const lamb = await follow((parameters) => new LAMB([{ parameters }]))
  expectTrace(lamb, await follow((parameters) => new AdamW([{ parameters }], { eps: 1e-6 })), 1e-12)
})

test('with the ratio held at one value it is AdamW with the decay in the step', async () => {
  // The ratios of the trace are all above 1, so that a limit of 1 forces 1.
  const held = await follow((parameters) => new LAMB([{ parameters, weightDecay: 0.1 }], { maxTrust: 1 }))
  const p = [1, -2]
  const [m, v] = [[0, 0], [0, 0]]
  const expected = gradients.map((gradient, t) => {
    const steps = gradient.map((g, i) => {
      m[i] = 0.9 * m[i] + 0.1 * g
      v[i] = 0.999 * v[i] + 0.001 * g * g
      return m[i] / (1 - 0.9 ** (t + 1)) / (Math.sqrt(v[i] / (1 - 0.999 ** (t + 1))) + 1e-6) + 0.1 * p[i]
    })
    expect(Math.hypot(...p) / Math.hypot(...steps)).toBeGreaterThan(1)
    steps.forEach((step, i) => (p[i] -= 0.1 * step))
    return [...p]
  })
  expectTrace(held, expected, 1e-12)
})

test('skips, clips, copies and resumes exactly', () => expectContract((groups) => new LAMB(groups)))
