// Learning-rate schedules at the published points.
import { constant, cosine, inverseSquareRoot, linearDecay } from '../../lib/optim/schedule'

test('cosine: lr 1e-3, minimum 1e-4, warm-up 100 of 1000 steps', () => {
  const rate = cosine({ lr: 1e-3, minLr: 1e-4, warmup: 100, steps: 1000 })
  const expected = [[0, 1e-5], [99, 1e-3], [100, 1e-3], [550, 5.5e-4], [1000, 1e-4], [5000, 1e-4]]
  for (const [step, lr] of expected) expect(rate(step)).toBeCloseTo(lr, 12)
})

test('linear, constant and inverse square root', () => {
  const line = linearDecay({ lr: 1, warmup: 10, steps: 110 })
  expect([line(0), line(9), line(10), line(60), line(110)]).toEqual([0.1, 1, 1, 0.5, 0])
  expect(constant({ lr: 2, warmup: 2 })(0)).toBe(1)
  // The form of "Attention is all you need": d = 512, 4000 steps of warm-up.
  const rate = inverseSquareRoot({ lr: 512 ** -0.5 * 4000 ** -0.5, warmup: 4000 })
  expect(rate(0)).toBeCloseTo(1.7469e-7, 11)
  expect(rate(3999)).toBeCloseTo(6.98771e-4, 9)
  expect(rate(15999)).toBeCloseTo(3.49386e-4, 9)
})

test('negative rates and broken warm-ups are refused', () => {
  expect(() => cosine({ lr: -1, steps: 10 })).toThrow(expect.objectContaining({ code: 'ERR_ARGUMENT' }))
  expect(() => constant({ lr: 1, warmup: 1.5 })).toThrow(expect.objectContaining({ code: 'ERR_ARGUMENT' }))
})
