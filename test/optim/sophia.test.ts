// Sophia: equal progress along flat and steep directions with exact curvature, moves of lr where it is cut off.
import { Sophia } from '../../lib/optim/sophia'
import { Parameter } from '../../lib/nn/parameter'
import { keep } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { expectContract } from '../support/optimizers'

const f64 = (values: number[]) => tensor(values, null, { dtype: 'f64' })

/** Sophia on 1/2 p diag(curvature) p with the exact curvature; p after each step. */
async function quadratic(curvature: number[], start: number[], steps: number, lr: number) {
  const parameter = new Parameter(f64(start))
  const optimizer = new Sophia([{ parameters: new Map([['p', parameter]]) }], { rho: 1, beta1: 0.9 })
  optimizer.load({ tensors: new Map([['m.p', f64(start.map(() => 0))], ['h.p', f64(curvature)]]), steps: 0, scalars: { tokens: 1 } })
  const path: number[][] = []
  for (let t = 0; t < steps; ++t) {
    const p = await parameter.tensor.toFloat64()
    parameter.tensor.grad = keep(f64(Array.from(p, (x, i) => curvature[i] * x)))
    optimizer.step(lr)
    optimizer.zeroGrad()
    path.push(Array.from(await parameter.tensor.toFloat64()))
  }
  optimizer.dispose()
  parameter.dispose()
  return path
}

test('curvatures of 1 and 1000 converge at the same rate', async () => {
  const path = await quadratic([1, 1000], [0.5, 0.5], 200, 0.1)
  for (const t of [20, 60, 120]) {
    const [a, b] = path[t].map(Math.abs)
    expect(a / b).toBeGreaterThan(0.8)
    expect(a / b).toBeLessThan(1.25)
  }
  expect(Math.max(...path[199].map(Math.abs))).toBeLessThan(1e-3)
})

test('elements that are cut off move exactly lr', async () => {
  const [first] = await quadratic([1, 1000], [1000, -1000], 1, 0.1)
  expect(first).toEqual([1000 - 0.1, -1000 + 0.1])
})

test('measure() keeps a running mean of squares', async () => {
  const parameter = new Parameter(f64([1, 1]))
  const optimizer = new Sophia([{ parameters: new Map([['p', parameter]]) }], { beta2: 0.9 })
  for (const g of [[1, 2], [3, 0]]) {
    parameter.tensor.grad = keep(f64(g))
    optimizer.measure(10)
  }
  const h = await optimizer.state().tensors.get('h.p')!.toFloat64()
  expect(h[0]).toBeCloseTo(0.9 * 0.1 * 1 + 0.1 * 9, 14)
  expect(h[1]).toBeCloseTo(0.9 * 0.1 * 4, 14)
  optimizer.dispose()
  parameter.dispose()
})

test('without curvature a step is refused; otherwise it skips, clips, copies and resumes exactly', async () => {
  const parameter = new Parameter(f64([1]))
  const optimizer = new Sophia([{ parameters: new Map([['p', parameter]]) }])
  parameter.tensor.grad = keep(f64([1]))
  expect(() => optimizer.step(0.1)).toThrow(expect.objectContaining({ code: 'ERR_OPTION', hint: expect.stringContaining('sophia_curvature') }))
  await expectContract((groups) => {
    const sophia = new Sophia(groups, { rho: 1 })
    const step = sophia.step.bind(sophia)
    sophia.step = (lr, clip) => {
      if (sophia.steps === 0) sophia.measure(1)
      step(lr, clip)
    }
    return sophia
  })
})
