// AMSGrad: the published check, PyTorch's trajectories with both kinds of weight decay.
import { Adam } from '../../lib/optim/adam'
import { AMSGrad } from '../../lib/optim/amsgrad'
import { expectContract, follow, goldenError } from '../support/optimizers'

test('a large first gradient is not forgotten', async () => {
  const gradients = [[1, 1], ...Array.from({ length: 9 }, () => [0.01, 0.01])]
  const plain = await follow((parameters) => new Adam([{ parameters }], { beta2: 0.9 }), gradients)
  const largest = await follow((parameters) => new AMSGrad([{ parameters }], { beta2: 0.9 }), gradients)
  expect(plain[9][0]).toBeCloseTo(0.5216038773, 9)
  expect(largest[9][0]).toBeCloseTo(0.5947384338, 9)
})

test.each([['amsgrad', false], ['amsgradw', true]] as const)("PyTorch's trajectory: %s", async (label, decoupled) => {
  const options = { beta1: 0.8, beta2: 0.9, decoupled }
  expect(await goldenError(label, (parameters) => new AMSGrad([{ parameters, weightDecay: 0.1 }], options))).toBeLessThan(1e-14)
})

test('skips, clips, copies and resumes exactly', () => expectContract((groups) => new AMSGrad(groups)))
