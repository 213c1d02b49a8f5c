// Nesterov's method in both writings: equal look-ahead points at a constant rate, different with a changing one; speed on a
// quadratic; PyTorch's trajectory.
import { Nesterov } from '../../lib/optim/nesterov'
import { Parameter } from '../../lib/nn/parameter'
import { keep } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { expectContract, follow, goldenError } from '../support/optimizers'

const f64 = (values: ArrayLike<number>) => tensor(Float64Array.from(values), null, { dtype: 'f64' })

/** Nesterov on 1/2 p diag(curvature) p; the stored point after each step. */
async function quadratic(options: object, curvature: number[], lr: (t: number) => number, steps: number): Promise<number[][]> {
  const parameter = new Parameter(f64(curvature.map(() => 1)))
  const optimizer = new Nesterov([{ parameters: new Map([['p', parameter]]) }], options)
  const path: number[][] = []
  for (let t = 0; t < steps; ++t) {
    const p = await parameter.tensor.toFloat64()
    parameter.tensor.grad = keep(f64(p.map((x, i) => curvature[i] * x)))
    optimizer.step(lr(t))
    optimizer.zeroGrad()
    path.push(Array.from(await parameter.tensor.toFloat64()))
  }
  optimizer.dispose()
  parameter.dispose()
  return path
}

const largestDifference = (a: number[][], b: number[][]) =>
  Math.max(...a.map((row, t) => Math.max(...row.map((x, i) => Math.abs(x - b[t][i])))))

test('the look-ahead points agree at a constant rate, and differ by 0.086 with a linear decay over 50 steps', async () => {
  const both = (lr: (t: number) => number) =>
    Promise.all((['torch', 'sutskever'] as const).map((form) => quadratic({ form }, [1, 25], lr, 50)))
  const [a, b] = await both(() => 0.02)
  expect(largestDifference(a, b)).toBeLessThan(1e-14)
  const [c, d] = await both((t) => 0.02 * (1 - t / 50))
  expect(largestDifference(c, d)).toBeCloseTo(0.086, 2)
})

test("evaluation is at Sutskever's p, which the look-ahead point leaves by momentum v", async () => {
  const parameter = new Parameter(f64([1]))
  const optimizer = new Nesterov([{ parameters: new Map([['p', parameter]]) }], { form: 'sutskever' })
  // By hand: v = 0.9 v - lr g(p + 0.9 v), p += v, with g(x) = x.
  let [p, v] = [1, 0]
  for (let t = 0; t < 5; ++t) {
    parameter.tensor.grad = keep(f64(await parameter.tensor.toFloat64()))
    optimizer.step(0.1)
    optimizer.zeroGrad()
    v = 0.9 * v - 0.1 * (p + 0.9 * v)
    p += v
    expect(Math.abs((await optimizer.evaluationWeights()!.get('p')!.item()) - p)).toBeLessThan(1e-15)
  }
  optimizer.dispose()
  parameter.dispose()
})

test('with the best settings it reaches 1e-6 on condition number 100 in at most 0.6 of the steps of gradient descent', async () => {
  const reach = (path: number[][]) => path.findIndex(([x, y]) => 0.5 * (x * x + 100 * y * y) <= 1e-6) + 1
  // Without momentum the best rate is 2 / (1 + 100).
  const plain = Array.from({ length: 600 }, (_, t) => [(1 - 2 / 101) ** (t + 1), (1 - 200 / 101) ** (t + 1)])
  const root = 1 / Math.sqrt(100)
  const fast = await quadratic({ momentum: (1 - root) / (1 + root) }, [1, 100], () => 1 / 100, 300)
  expect(reach(fast)).toBeGreaterThan(0)
  expect(reach(fast) / reach(plain)).toBeLessThan(0.6)
})

test("PyTorch's trajectory", async () => {
  expect(await goldenError('nesterov', (parameters) => new Nesterov([{ parameters, weightDecay: 0.1 }]))).toBeLessThan(1e-14)
})

test('both forms skip, clip, copy and resume exactly', async () => {
  await expectContract((groups) => new Nesterov(groups))
  await expectContract((groups) => new Nesterov(groups, { form: 'sutskever' }))
  expect(await follow((parameters) => new Nesterov([{ parameters }], { form: 'sutskever' }))).toHaveLength(3)
})
