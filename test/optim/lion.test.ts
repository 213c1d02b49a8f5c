// Lion: published trace, moves of exactly lr, half of Adam's state.
import { AdamW } from '../../lib/optim/adamw'
import { Lion } from '../../lib/optim/lion'
import { expectContract, expectTrace, follow } from '../support/optimizers'
import { Parameter } from '../../lib/nn/parameter'
import { keep } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'

test('the published trace with weight decay 0.1', async () => {
  const trace = await follow((parameters) => new Lion([{ parameters, weightDecay: 0.1 }]))
  expectTrace(trace, [[0.89, -1.88], [0.7811, -1.9612], [0.873289, -2.041588]], 1e-15)
})

test('every element moves by lr or, where gradient and momentum are 0, not at all', async () => {
  const trace = await follow((parameters) => new Lion([{ parameters }]), [[1e-30, 0], [-5, 0]])
  expectTrace(trace, [[0.9, -2], [1, -2]], 1e-15)
})

test('the momentum after one step is 0.01 g, and there is one state tensor against two of AdamW', async () => {
  const bytes = []
  for (const Kind of [Lion, AdamW]) {
    const parameter = new Parameter(tensor([1, 2, 3]))
    const optimizer = new Kind([{ parameters: new Map([['p', parameter]]) }])
    parameter.tensor.grad = keep(tensor([1, -2, 0.5]))
    optimizer.step(0.1)
    const tensors = [...optimizer.state().tensors.values()]
    bytes.push(tensors.reduce((sum, { size }) => sum + 4 * size, 0))
    if (Kind === Lion) {
      const m = await tensors[0].toFloat32()
      ;[0.01, -0.02, 0.005].forEach((expected, i) => expect(m[i]).toBeCloseTo(expected, 8))
    }
    optimizer.dispose()
    parameter.dispose()
  }
  expect(bytes[0]).toBe(bytes[1] / 2)
})

test('skips, clips, copies and resumes exactly', () => expectContract((groups) => new Lion(groups)))
