// The tape: accumulation, shared tensors, errors that say what to do.
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { accumulate } from '../../lib/ops/accumulate'
import { add, mul } from '../../lib/ops/elementwise'
import { matmul } from '../../lib/ops/matmul'
import { reshape } from '../../lib/ops/reshape'
import { sum } from '../../lib/ops/reductions'
import { keep, scope } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'

const leaf = (values: number[]) => keep(tensor(values, null, { requiresGrad: true }))
const values = async (t: Tensor | null) => Array.from(await t!.toFloat64())

test('a tensor used twice gets both gradients', async () => {
  const x = leaf([1, 2, 3])
  scope(() => backward(sum(add(mul(x, x), x))))
  expect(await values(x.grad)).toEqual([3, 5, 7])
})

test('gradients of two backward passes add up, and of two leaves stay apart', async () => {
  const a = leaf([1, 2])
  const b = leaf([3, 4])
  scope(() => backward(sum(add(a, b))))
  scope(() => backward(sum(add(a, b))))
  scope(() => backward(sum(a)))
  expect(await values(a.grad)).toEqual([3, 3])
  expect(await values(b.grad)).toEqual([2, 2])
})

test('a leaf that is the loss itself, and a seed', async () => {
  const x = leaf([5])
  backward(x)
  expect(await values(x.grad)).toEqual([1])
  const y = leaf([1, 2])
  scope(() => backward(mul(y, y), tensor([10, 100])))
  expect(await values(y.grad)).toEqual([20, 400])
})

test('views share memory without mixing gradients up', async () => {
  const x = leaf([1, 2, 3, 4])
  scope(() => {
    const m = reshape(x, [2, 2])
    backward(sum(matmul(m, m)))
  })
  // d/dx sum(M M) = row sums of M^T plus column sums
  expect(await values(x.grad)).toEqual([7, 11, 9, 13])
})

test('no gradient flows to what does not want any, or under noGrad', async () => {
  const x = leaf([1])
  const y = keep(tensor([2]))
  scope(() => backward(sum(mul(x, y))))
  expect(y.grad).toBeNull()
  expect(() => scope(() => backward(noGrad(() => sum(x))))).toThrow(
    expect.objectContaining({ code: 'ERR_ARGUMENT', message: expect.stringContaining('does not depend on anything') }),
  )
})

test('a loss with several elements is refused', () => {
  const x = leaf([1, 2])
  expect(() => scope(() => backward(mul(x, x)))).toThrow(
    expect.objectContaining({ code: 'ERR_SHAPE', message: expect.stringContaining('[2]') }),
  )
})

test('a saved tensor that was changed in place is noticed', () => {
  const x = leaf([1, 2])
  expect(() =>
    scope(() => {
      const y = mul(x, x)
      const z = mul(y, y)
      accumulate(y, x)
      backward(sum(z))
    }),
  ).toThrow(expect.objectContaining({ message: expect.stringContaining('changed in place') }))
})
