// SGD with momentum and Nesterov's method against published traces.
import { Nesterov } from '../../lib/optim/nesterov'
import { SGD } from '../../lib/optim/sgd'
import { follow } from '../support/optimizers'

const expectTrace = (trace: number[][], expected: number[][]) =>
  trace.forEach((values, step) => values.forEach((x, i) => expect(Math.abs(x - expected[step][i])).toBeLessThan(1e-12)))

test('momentum 0.9', async () => {
  const trace = await follow((parameters) => new SGD([{ parameters }], { momentum: 0.9 }))
  expectTrace(trace, [[0.99, -1.98], [0.951, -2.002], [0.9659, -2.0268]])
})

test('plain, and with dampening that spares the first step', async () => {
  expectTrace(await follow((parameters) => new SGD([{ parameters }])), [[0.99, -1.98], [0.96, -2.02], [1.01, -2.025]])
  const damped = await follow((parameters) => new SGD([{ parameters }], { momentum: 0.5, dampening: 0.5 }))
  expectTrace(damped, [[0.99, -1.98], [0.97, -1.99], [0.985, -1.9975]])
})

test("Nesterov's method, without and with weight decay", async () => {
  expectTrace(await follow((parameters) => new Nesterov([{ parameters }])), [
    [0.981, -1.962],
    [0.9159, -2.0218],
    [0.97931, -2.04912],
  ])
  expectTrace(await follow((parameters) => new Nesterov([{ parameters, weightDecay: 0.1 }])), [
    [0.962, -1.924],
    [0.870522, -1.931044],
    [0.902309882, -1.891509764],
  ])
})

test('options that contradict each other are refused', () => {
  expect(() => new SGD([], { nesterov: true })).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
  expect(() => new SGD([], { momentum: -1 })).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
})
