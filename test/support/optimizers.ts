// Optimisers against published traces (three steps in f64 on two numbers), PyTorch, and the contract that all of them keep.
import { Parameter } from '../../lib/nn/parameter'
import { mul } from '../../lib/ops/elementwise'
import { decayGroups, type Optimizer, type ParameterGroup } from '../../lib/optim/optimizer'
import { getDevice } from '../../lib/tensor/device'
import { bf16ToNumber, numberToBf16 } from '../../lib/tensor/half'
import { keep } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { fromHost, toHost } from '../../lib/train/host_tensor'
import { goldenFacts, goldenTensors, relative } from './goldens'

export const gradients = [[0.1, -0.2], [0.3, 0.4], [-0.5, 0.05]]

/** The parameter (1, -2) after each step with lr 0.1. */
export async function follow(
  make: (parameters: Map<string, Parameter>) => Optimizer,
  steps: number[][] = gradients,
): Promise<number[][]> {
  const parameter = new Parameter(tensor([1, -2], null, { dtype: 'f64' }))
  const optimizer = make(new Map([['p', parameter]]))
  const trace: number[][] = []
  for (const values of steps) {
    parameter.tensor.grad = keep(tensor(values, null, { dtype: 'f64' }))
    optimizer.step(0.1)
    optimizer.zeroGrad()
    trace.push(Array.from(await parameter.tensor.toFloat64()))
  }
  optimizer.dispose()
  parameter.dispose()
  return trace
}

/** Throws unless every number of a trace is within `tolerance` of the published one. */
export function expectTrace(trace: number[][], expected: number[][], tolerance: number): void {
  trace.forEach((values, step) => values.forEach((x, i) => expect(Math.abs(x - expected[step][i])).toBeLessThan(tolerance)))
  expect(trace).toHaveLength(expected.length)
}

const goldens = goldenTensors('optimizers')
export const goldenOptions = (label: string) => goldenFacts('optimizers').options[label]

/**
 * Largest difference, over the largest number, between an optimiser and PyTorch's in f64 after any of six steps
 * (test/goldens/optimizers.py); `names` are the parameters it was given.
 */
export async function goldenError(
  label: string,
  make: (parameters: Map<string, Parameter>) => Optimizer,
  names = ['wide', 'tall', 'vector'],
): Promise<number> {
  const numbers = await goldens
  const { rates, shapes } = goldenFacts('optimizers') as { rates: number[]; shapes: Record<string, number[]> }
  const f64 = (values: Float64Array, shape: number[]) => tensor(values, shape, { dtype: 'f64' })
  const parameters = new Map(names.map((name) => [name, new Parameter(f64(numbers.numbers(`start.${name}`), shapes[name]))]))
  const optimizer = make(parameters)
  let worst = 0
  for (const [step, lr] of rates.entries()) {
    const at = (name: string, values: Float64Array) => {
      const size = shapes[name].reduce((a, b) => a * b, 1)
      return values.subarray(step * size, (step + 1) * size)
    }
    for (const [name, parameter] of parameters) {
      parameter.tensor.grad = keep(f64(at(name, numbers.numbers(`grads.${name}`)).slice(), shapes[name]))
    }
    optimizer.step(lr)
    optimizer.zeroGrad()
    for (const [name, parameter] of parameters) {
      worst = Math.max(worst, relative(await parameter.tensor.toFloat64(), at(name, numbers.numbers(`${label}.${name}`))))
    }
  }
  optimizer.dispose()
  return worst
}

/** All tensors of an optimiser and its parameters, as text that is equal when every bit is. */
export async function bitsOf(optimizer: Optimizer): Promise<Record<string, string>> {
  const tensors = new Map(optimizer.state().tensors)
  for (const { parameters } of optimizer.groups) {
    for (const [name, { tensor: master, copy }] of parameters) {
      tensors.set(`master ${name}`, master)
      if (copy) tensors.set(`copy ${name}`, copy)
    }
  }
  const entries = [...tensors].map(async ([name, value]) => {
    const data = await value.data()
    return [name, Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64')] as const
  })
  return Object.fromEntries(await Promise.all(entries))
}

/**
 * What every optimiser must do, on a matrix of two parts and a vector, in f32 with bf16 copies: a skip flag leaves every bit
 * alone; the clip factor scales the gradient; copies follow the masters; saving and loading after any step changes no bit.
 */
export async function expectContract(make: (groups: ParameterGroup[]) => Optimizer): Promise<void> {
  const size = { matrix: [96, 64], vector: [33] }
  const values = (shape: number[], phase: number) =>
    tensor(Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i * 0.7 + phase)), shape)
  const fresh = () => {
    const parameters = new Map(Object.entries(size).map(([name, shape]) => [name, new Parameter(values(shape, 1))]))
    parameters.get('matrix')!.parts = [32, 64]
    for (const parameter of parameters.values()) parameter.setComputeDType('bf16')
    const optimizer = make(decayGroups(parameters, 0.1))
    const step = (phase: number, factor = 1, clip?: Tensor) => {
      for (const [name, shape] of Object.entries(size)) {
        const grad = values(shape, phase)
        parameters.get(name)!.tensor.grad = keep(mul(grad, tensor([factor])))
      }
      optimizer.step(0.01, clip)
      optimizer.zeroGrad()
    }
    return { optimizer, parameters, step }
  }
  const first = fresh()
  first.step(2)
  const before = await bitsOf(first.optimizer)
  first.step(3, NaN, tensor([1, 1]))
  first.optimizer.undo()
  expect(await bitsOf(first.optimizer)).toEqual(before)

  const state = first.optimizer.state()
  const saved = new Map(await Promise.all([...state.tensors].map(async ([name, value]) => [name, await toHost(value)] as const)))
  const scalars = JSON.parse(JSON.stringify(state.scalars))
  first.step(3)
  first.step(4, 4, tensor([0.25, 0]))
  const straight = await bitsOf(first.optimizer)
  for (const [name, parameter] of first.parameters) {
    if (!parameter.copy) continue
    const master = await parameter.tensor.toFloat32()
    const copy = Array.from(await parameter.copy.toFloat32())
    expect([name, copy]).toEqual([name, Array.from(master, (x) => bf16ToNumber(numberToBf16(x)))])
  }

  const second = fresh()
  second.step(2)
  const loaded = new Map([...saved].map(([name, value]) => [name, fromHost(value, getDevice())]))
  second.optimizer.load({ tensors: loaded, steps: 1, scalars })
  second.step(3)
  second.step(4)
  expect(await bitsOf(second.optimizer)).toEqual(straight)
  for (const { optimizer, parameters } of [first, second]) {
    optimizer.dispose()
    for (const parameter of parameters.values()) parameter.dispose()
  }
}
