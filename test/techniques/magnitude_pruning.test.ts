// Gradual magnitude pruning: the published schedule, exact counts, masks that only shrink within their time, resume.
import { cubicSparsity, magnitudePruningEntry } from '../../lib/techniques/magnitude_pruning'
import type { Technique } from '../../lib/techniques/technique'
import { expectResume, outcome } from '../support/techniques'
import { tinyTrainer } from '../support/tiny_gpt'

test('0, 0.5203125, 0.7875, 0.8859375, 0.9 of the way to 0.9', () => {
  ;[0, 0.5203125, 0.7875, 0.8859375, 0.9].forEach((x, i) => expect(cubicSparsity(i / 4, 0.9)).toBeCloseTo(x, 12))
})

test.each(['layer', 'global'] as const)('masks shrink between start and end alone, to the sparsity within one weight a matrix: %s', async (scope) => {
  const technique = magnitudePruningEntry.create({ sparsity: 0.8, start: 0.25, end: 0.75, every: 2, scope })
  const zeros: Promise<{ size: number; zero: number }[]>[] = []
  const watcher: Technique = {
    name: 'watcher',
    step(next) {
      next()
      const { tensors } = technique.state!()
      zeros.push(Promise.all([...tensors!.values()].map(async (mask) => ({ size: mask.size, zero: (await mask.toFloat32()).filter((x) => x === 0).length }))))
    },
  }
  const { trainer, model } = tinyTrainer({ steps: 16, techniques: [technique, watcher] })
  for await (const { loss } of trainer.train()) expect(loss).toBeGreaterThan(0)
  const by = await Promise.all(zeros)
  const total = (step: number) => by[step].reduce((n, { zero }) => n + zero, 0)
  expect(by[4]).toEqual([])
  for (let step = 5; step < 16; ++step) expect(total(step)).toBeGreaterThanOrEqual(total(step - 1))
  expect(total(15)).toBe(total(12))
  const size = by[15].reduce((n, each) => n + each.size, 0)
  expect(Math.abs(total(15) - 0.8 * size)).toBeLessThanOrEqual(by[15].length)
  if (scope === 'layer') for (const each of by[15]) expect(Math.abs(each.zero - 0.8 * each.size)).toBeLessThanOrEqual(1)
  for (const [name, mask] of technique.state!().tensors!) {
    const [kept, weights] = [await mask.toFloat32(), await model.namedParameters().get(name)!.tensor.toFloat32()]
    expect(weights.every((w, i) => kept[i] === 1 || w === 0)).toBe(true)
  }
  model.dispose()
})

test('sparsity 0 is the run without it, bit for bit; a resume is exact', async () => {
  const options = { steps: 4 }
  expect(await outcome([magnitudePruningEntry.create({ sparsity: 0 })], options)).toEqual(await outcome([], options))
  await expectResume(() => [magnitudePruningEntry.create({ start: 0.2, end: 0.9, every: 1, scope: 'global' })], {}, [2, 5])
})
