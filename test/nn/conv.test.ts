// Conv1d and Conv2d: shapes, parameters, and learning a known filter.
import { backward } from '../../lib/autograd/backward'
import { Conv1d, Conv2d } from '../../lib/nn/conv'
import { normal } from '../../lib/init/normal'
import { mul, sub } from '../../lib/ops/elementwise'
import { randn } from '../../lib/ops/random'
import { mean } from '../../lib/ops/reductions'
import { SGD } from '../../lib/optim/sgd'
import { keep, scope } from '../../lib/tensor/scope'
import { seed } from '../../lib/tensor/random'

test('shapes and parameters', () => {
  const one = new Conv1d(4, 6, 3, { stride: 2, padding: 1, groups: 2 })
  expect([...one.namedParameters()].map(([name, p]) => [name, p.shape])).toEqual([['weight', [6, 2, 3]], ['bias', [6]]])
  const two = new Conv2d(3, 8, [3, 5], { padding: [1, 2], bias: false })
  expect(two.parameterCount()).toBe(8 * 3 * 15)
  scope(() => {
    expect(one.call(randn([2, 4, 9])).shape).toEqual([2, 6, 5])
    expect(two.call(randn([2, 3, 7, 6])).shape).toEqual([2, 8, 7, 6])
  })
})

test('gradient descent finds the filter that made the data', async () => {
  seed(2)
  const teacher = new Conv2d(1, 2, 3, { init: normal(1) })
  const student = new Conv2d(1, 2, 3)
  const sgd = new SGD([{ parameters: student.namedParameters() }], { momentum: 0.9 })
  const x = keep(randn([4, 1, 8, 8]))
  let loss = Infinity
  for (let step = 0; step < 400; ++step) {
    const value = scope(() => {
      const difference = sub(student.call(x), teacher.call(x))
      const squared = mean(mul(difference, difference))
      backward(squared)
      sgd.step(0.1)
      sgd.zeroGrad()
      teacher.parameters().forEach((parameter) => parameter.zeroGrad())
      return squared.detach()
    })
    loss = await value.item()
    value.dispose()
  }
  expect(loss).toBeLessThan(1e-8)
})
