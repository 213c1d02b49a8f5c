// Lottery tickets on T16: the pruned network trained from its own start beats the same mask from another start, which beats
// random masks of the same densities. Counts, monotone masks, the technique inside one run.
import { lotteryEntry, pruneRound, Snapshot, survivors } from '../../lib/techniques/lottery'
import { Masks, maskableOf } from '../../lib/techniques/masks'
import type { Tensor } from '../../lib/tensor/tensor'
import { copy } from '../../lib/ops/copy'
import { keep } from '../../lib/tensor/scope'
import { counts, newAdam, trainMasked } from '../support/sparse'
import { accuracy, Student, teacher, type Examples } from '../support/teacher'
import { expectResume, outcome } from '../support/techniques'

const steps = 1500

async function trainedWith(masks: ReadonlyMap<string, Tensor>, active: ReadonlyMap<string, number>, seed: number, data: { train: Examples; test: Examples }) {
  const student = new Student(seed)
  const optimizer = newAdam(student)
  const own = new Masks(maskableOf(student.namedParameters()), optimizer)
  for (const [name, mask] of masks) own.set(name, copy(mask), active.get(name)!)
  await trainMasked(student, optimizer, own, data.train, { steps })
  const result = await accuracy(student, data.test)
  own.dispose()
  optimizer.dispose()
  student.dispose()
  return result
}

// Published after 13 and 16 rounds of a fifth: 0.744, 0.706 and 0.68 at 5.5 %, 0.728, 0.70 and 0.60 at 2.8 %, dense 0.667.
// Measured: 0.758, 0.734 and 0.698; 0.746, 0.722 and 0.619; dense 0.657. With AVX2, which rounds otherwise: 0.753, 0.734 and
// 0.698; 0.740, 0.722 and 0.634. Tickets and fresh starts both do better than published, so the first gap is nearer to 0.02.
test.each([[0.055, 13], [0.0282, 16]])('T16 at density %d: ticket > fresh start by 0.015, > random mask by 0.02 more, and ticket > dense', async (density, rounds) => {
  const data = teacher()
  const student = new Student(1)
  const parameters = student.namedParameters()
  const start = new Snapshot(parameters)
  const masks = new Masks(maskableOf(parameters))
  const train = async () => {
    const optimizer = newAdam(student)
    await trainMasked(student, optimizer, masks, data.train, { steps })
    optimizer.dispose()
    return accuracy(student, data.test)
  }
  const rate = 1 - density ** (1 / rounds)
  let before: Map<string, Float32Array> | null = null
  let dense = 0
  for (let round = 0; round < rounds; ++round) {
    const reached = await train()
    if (!round) dense = reached
    await pruneRound(masks, { rate })
    start.restore(parameters, masks)
    const now = new Map(await Promise.all([...masks.masks].map(async ([name, mask]) => [name, await mask.toFloat32()] as const)))
    for (const [name, mask] of before ?? []) expect(now.get(name)!.every((one, i) => one <= mask[i])).toBe(true)
    before = now
  }
  expect(masks.density).toBeCloseTo(density, 3)
  const ticket = await train()
  const fresh = ((await trainedWith(masks.masks, masks.active, 77, data)) + (await trainedWith(masks.masks, masks.active, 78, data))) / 2
  const random = new Masks(masks.parameters)
  random.startRandom(new Map([...masks.active].map(([name, count]) => [name, count / masks.parameters.get(name)!.tensor.size])), 5)
  const lost = await trainedWith(random.masks, random.active, 77, data)
  expect(ticket).toBeGreaterThan(fresh + 0.015)
  expect(fresh).toBeGreaterThan(lost + 0.02)
  expect(ticket).toBeGreaterThan(dense + 0.02)
  student.dispose()
}, 600_000)

test('by one threshold for all, the density after n rounds is 0.8^n within a weight a round', async () => {
  const student = new Student(2)
  const masks = new Masks(maskableOf(student.namedParameters()))
  let expected = masks.size
  for (let round = 1; round <= 10; ++round) {
    await pruneRound(masks, { rate: 0.2 })
    expected = survivors(expected, 0.2)
    const total = Object.values(await counts(masks)).reduce((a, b) => a + b, 0)
    expect(total).toBe(expected)
    expect(Math.abs(total - masks.size * 0.8 ** round)).toBeLessThanOrEqual(round)
  }
  masks.dispose()
  student.dispose()
})

test('within each matrix, with half the rate for the output', async () => {
  const student = new Student(2)
  const masks = new Masks(maskableOf(student.namedParameters()))
  await pruneRound(masks, { rate: 0.2, global: false, isOutput: (name) => name.startsWith('layers.2') })
  expect(Object.fromEntries(masks.active)).toEqual({ 'layers.0.weight': 13107, 'layers.1.weight': 26214, 'layers.2.weight': 1152 })
  const first = keep(copy(masks.masks.get('layers.2.weight')!))
  await pruneRound(masks, { rate: 0.2, global: false })
  const [one, two] = [await first.toFloat32(), await masks.masks.get('layers.2.weight')!.toFloat32()]
  expect(two.every((x, i) => x <= one[i])).toBe(true)
  masks.dispose()
  student.dispose()
})

test('inside one run: the parts begin again from the rewound weights; no round is the run without it; resume is exact', async () => {
  const options = { steps: 4 }
  expect(await outcome([lotteryEntry.create({ rounds: 0 })], options)).toEqual(await outcome([], options))
  const { losses } = await outcome([lotteryEntry.create({ rounds: 1, rewind: 0 })], { steps: 60 })
  expect(losses[29]).toBeLessThan(losses[0] - 0.3)
  expect(losses[30]).toBeGreaterThan(losses[29])
  await expectResume(() => [lotteryEntry.create({ rounds: 2, rewind: 0.4 })], { steps: 9 }, [1, 2, 3, 4, 7])
})
