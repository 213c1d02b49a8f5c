// Learning-rate schedules at the published points.
import { constant, cosine, inverseSquareRoot, linearDecay, makeSchedule, noam, wsd } from '../../lib/optim/schedule'
import { tinyTrainer, trainAll } from '../support/tiny_gpt'

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

test('warm-up, stable, decay: the shapes, and a branch that agrees with the long run up to its decay', () => {
  const options = { lr: 1, minLr: 0.1, warmup: 10, steps: 100 }
  const line = wsd(options)
  expect([line(0), line(9), line(10), line(79), line(80), line(90), line(100), line(500)]).toEqual([0.1, 1, 1, 1, 1, 0.55, 0.1, 0.1])
  const root = wsd({ ...options, shape: 'sqrt' })
  expect(root(85)).toBeCloseTo(1 - 0.9 * 0.5, 12)
  const halving = wsd({ ...options, minLr: 0, shape: 'exponential' })
  expect(halving(82)).toBeCloseTo((0.5 - 2 ** -10) / (1 - 2 ** -10), 12)
  expect(halving(100)).toBe(0)
  const long = wsd({ ...options, steps: 1000 })
  for (let step = 0; step < 80; ++step) expect(long(step)).toBe(line(step))
})

test('a run branched off at 0.8 of its steps repeats the long one bit for bit up to there', async () => {
  const losses = []
  for (const steps of [10, 30]) {
    const { trainer, model, optimizer } = tinyTrainer({ steps, schedule: wsd({ lr: 3e-3, warmup: 2, steps }) })
    losses.push((await trainAll(trainer)).slice(0, 9))
    model.dispose()
    optimizer.dispose()
  }
  // The ninth loss is that of the weights before the first decayed update.
  expect(losses[0]).toEqual(losses[1])
})

test('schedules by name', () => {
  const options = { lr: 1, minLr: 0, warmup: 0, steps: 100 }
  expect(makeSchedule('cosine', options)(50)).toBeCloseTo(0.5, 12)
  expect(makeSchedule('wsd:decay=0.5,shape=sqrt', options)(50)).toBe(1)
  expect(noam({ width: 512, warmup: 4000 })(3999)).toBeCloseTo(6.98771e-4, 9)
  expect(() => makeSchedule('cosin', options)).toThrow(expect.objectContaining({ code: 'ERR_OPTION', hint: expect.stringContaining('cosine') }))
  expect(() => makeSchedule('wsd:decay=2', options)).toThrow(expect.objectContaining({ code: 'ERR_OPTION', message: 'wsd: decay is "2"' }))
})
