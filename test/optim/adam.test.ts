// Adam with the decay in the gradient: published trace, PyTorch's trajectory, the contract of optimisers.
import { Adam } from '../../lib/optim/adam'
import { AdamW } from '../../lib/optim/adamw'
import { expectContract, expectTrace, follow, goldenError } from '../support/optimizers'

test('the published trace with weight decay 0.1', async () => {
  expectTrace(await follow((parameters) => new Adam([{ parameters, weightDecay: 0.1 }])), [
    [0.900000005, -1.9000000025],
    [0.803214755168, -1.875283168837],
    [0.793387482461, -1.838387590152],
  ], 1e-11)
})

test("PyTorch's trajectory", async () => {
  expect(await goldenError('adam', (parameters) => new Adam([{ parameters, weightDecay: 0.1 }], { beta2: 0.99 }))).toBeLessThan(1e-14)
})

test('with decoupled decay it is AdamW', async () => {
  const adam = await follow((parameters) => new Adam([{ parameters, weightDecay: 0.1 }], { decoupled: true }))
  expectTrace(adam, await follow((parameters) => new AdamW([{ parameters, weightDecay: 0.1 }])), 1e-15)
})

test('skips, clips, copies and resumes exactly', () => expectContract((groups) => new Adam(groups)))

test('bad options are refused', () => {
  expect(() => new Adam([], { beta2: 1 })).toThrow(expect.objectContaining({ code: 'ERR_OPTION', message: expect.stringContaining('beta2') }))
})
