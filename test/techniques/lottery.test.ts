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

/** Accuracy of a ticket found in so many rounds; of its mask from two other starts, of random masks like it, and dense. */
async function raceOf(seed: number, density: number, rounds: number, data: { train: Examples; test: Examples }) {
  const student = new Student(seed)
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
  const other = (from: Masks, by: number) => trainedWith(from.masks, from.active, by, data)
  const fresh = ((await other(masks, 77 + 10 * seed)) + (await other(masks, 78 + 10 * seed))) / 2
  const random = new Masks(masks.parameters)
  random.startRandom(new Map([...masks.active].map(([name, count]) => [name, count / masks.parameters.get(name)!.tensor.size])), 5 + seed)
  const lost = await other(random, 77)
  for (const each of [random, masks]) each.dispose()
  start.dispose()
  student.dispose()
  return { ticket, fresh, lost, dense }
}

// Published after 13 and 16 rounds of a fifth, on 2 seeds: 0.744, 0.706 and 0.68 at 5.5 %, 0.728, 0.70 and 0.60 at 2.8 %, dense
// 0.667. Here: 0.756, 0.730 and 0.706; 0.744, 0.723 and 0.617; dense 0.663. From seed to seed a ticket leads by 0.017 to 0.032, so
// three are averaged.
test.each([[0.055, 13], [0.0282, 16]])('T16 at density %d, on the mean of 3 seeds: ticket > fresh start > random mask, each by 0.02, and ticket > dense', async (density, rounds) => {
  const data = teacher()
  const races: Awaited<ReturnType<typeof raceOf>>[] = []
  for (const seed of [1, 2, 3]) races.push(await raceOf(seed, density, rounds, data))
  const mean = (name: keyof (typeof races)[0]) => races.reduce((sum, race) => sum + race[name] / races.length, 0)
  expect(mean('ticket')).toBeGreaterThan(mean('fresh') + 0.02)
  expect(mean('fresh')).toBeGreaterThan(mean('lost') + 0.02)
  expect(mean('ticket')).toBeGreaterThan(mean('dense') + 0.02)
}, 1_800_000)

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
