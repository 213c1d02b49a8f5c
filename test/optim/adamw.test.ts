// AdamW against published traces, PyTorch's order of operations, low-precision copies and the skip flag.
import { Parameter } from '../../lib/nn/parameter'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups, type Optimizer } from '../../lib/optim/optimizer'
import { keep } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { bf16ToNumber, numberToBf16 } from '../../lib/tensor/half'
import { follow, gradients } from '../support/optimizers'

test('the trace of AdamW: lr 0.1, betas 0.9 and 0.999, weight decay 0.1', async () => {
  const trace = await follow((parameters) => new AdamW([{ parameters, weightDecay: 0.1 }]))
  const expected = [
    [0.89000001, -1.880000005],
    [0.789321902106, -1.897810356496],
    [0.797520112975, -1.914058856564],
  ]
  trace.forEach((values, step) => values.forEach((x, i) => expect(x).toBeCloseTo(expected[step][i], 11)))
})

test('the first step is about lr whatever the size of the gradient', async () => {
  for (const size of [1e-6, 1, 1e6]) {
    const [[x]] = await follow((parameters) => new AdamW([{ parameters }]), [[size, size]])
    expect(Math.abs((1 - x) / 0.1 - 1)).toBeLessThan(0.01)
  }
})

async function bytesOf(optimizer: Optimizer, parameter: Parameter): Promise<string[]> {
  const tensors = [parameter.tensor, ...optimizer.state().tensors.values(), ...(parameter.copy ? [parameter.copy] : [])]
  return Promise.all(tensors.map(async (t) => Buffer.from((await t.data()).buffer).toString('hex')))
}

test('a skip flag leaves parameters, moments and copies untouched, bit for bit; the factor scales gradients', async () => {
  const values = Float32Array.from({ length: 50_000 }, (_, i) => Math.sin(i))
  const parameter = new Parameter(tensor(values, [500, 100]))
  parameter.setComputeDType('bf16')
  const optimizer = new AdamW(decayGroups(new Map([['w', parameter]]), 0.1))
  const setGradient = (factor: number) => (parameter.tensor.grad = keep(tensor(values.map((x) => x * factor), [500, 100])))
  setGradient(1)
  optimizer.step(0.01)
  const before = await bytesOf(optimizer, parameter)
  setGradient(NaN)
  optimizer.step(0.01, tensor([1, 1]))
  expect(await bytesOf(optimizer, parameter)).toEqual(before)

  // In powers of two, so that scaling is exact.
  setGradient(4)
  optimizer.step(0.01, tensor([0.25, 0]))
  const scaled = await bytesOf(optimizer, parameter)
  const other = new Parameter(tensor(values, [500, 100]))
  other.setComputeDType('bf16')
  const again = new AdamW(decayGroups(new Map([['w', other]]), 0.1))
  for (const step of [1, 3]) {
    other.tensor.grad = keep(tensor(values, [500, 100]))
    again.steps = step - 1
    again.step(0.01)
  }
  expect(await bytesOf(again, other)).toEqual(scaled)
})

test('copies in 16 bits are the masters, rounded', async () => {
  const parameter = new Parameter(tensor(Float32Array.from({ length: 99 }, (_, i) => Math.cos(i)), [9, 11]))
  parameter.setComputeDType('bf16')
  const optimizer = new AdamW([{ parameters: new Map([['w', parameter]]) }])
  parameter.tensor.grad = keep(tensor(new Float32Array(99).fill(0.3), [9, 11]))
  optimizer.step(0.01)
  const master = await parameter.tensor.toFloat32()
  expect(Array.from(await parameter.copy!.toFloat32())).toEqual(Array.from(master, (x) => bf16ToNumber(numberToBf16(x))))
})

test('parameters without a gradient are left alone; bad options are refused', async () => {
  const parameter = new Parameter(tensor([1, 2]))
  const optimizer = new AdamW([{ parameters: new Map([['w', parameter]]), weightDecay: 0.5 }])
  optimizer.step(0.1)
  expect(Array.from(await parameter.tensor.toFloat64())).toEqual([1, 2])
  expect(() => new AdamW([], { beta1: 1 })).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
  expect(gradients).toHaveLength(3)
})

test('state of an unknown parameter is refused', () => {
  const optimizer = new AdamW([{ parameters: new Map() }])
  expect(() => optimizer.load({ tensors: new Map([['m.other', tensor([1])]]), steps: 1 })).toThrow(
    expect.objectContaining({ code: 'ERR_CHECKPOINT', message: expect.stringContaining("'other'") }),
  )
})
