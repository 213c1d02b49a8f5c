// SET: counts stay, grown weights start afresh, optimiser state is reset, neutral and exact resume. T16 is in rigl.test.ts.
import { startMasks } from '../../lib/techniques/rigl'
import { growAtRandom, setEntry } from '../../lib/techniques/set'
import { Generator } from '../../lib/tensor/random'
import { counts, newAdam, trainMasked } from '../support/sparse'
import { Student, teacher } from '../support/teacher'
import { expectResume, outcome } from '../support/techniques'

test('the smallest go, as many come with fresh values, and their moments are 0', async () => {
  const student = new Student()
  const optimizer = newAdam(student)
  const masks = startMasks(student.namedParameters(), optimizer, { density: 0.2, distribution: 'erk', seed: 1 })
  await trainMasked(student, optimizer, masks, teacher().train, { steps: 20 })
  const name = 'layers.0.weight'
  const read = async () => ({
    mask: await masks.masks.get(name)!.toFloat32(),
    w: await student.layers[0].weight.tensor.toFloat32(),
    m: await optimizer.slotsOf(name).get('m')!.toFloat32(),
  })
  const before = await read()
  const totals = await counts(masks)
  growAtRandom(masks, 0.3, 0.02, new Generator(5))
  const after = await read()
  expect(await counts(masks)).toEqual(totals)
  const sizes = (pick: (i: number) => boolean) => Array.from(before.w, Math.abs).filter((_, i) => pick(i))
  const dropped = sizes((i) => before.mask[i] === 1 && after.mask[i] === 0)
  const kept = sizes((i) => before.mask[i] === 1 && after.mask[i] === 1)
  // Some of those dropped were grown again where they stood, with their value.
  expect(dropped.length).toBeGreaterThan(0.2 * totals[name])
  expect(Math.max(...dropped)).toBeLessThan([...kept].sort((a, b) => a - b)[Math.floor(0.2 * kept.length)])
  after.mask.forEach((one, i) => {
    if (!one) expect(after.w[i] === 0 && after.m[i] === 0).toBe(true)
    else if (before.mask[i]) expect(after.w[i]).toBe(before.w[i])
    else {
      expect(Math.abs(after.w[i])).toBeGreaterThan(0)
      expect(Math.abs(after.w[i])).toBeLessThan(0.12)
      expect(after.m[i]).toBe(0)
    }
  })
  masks.dispose()
  optimizer.dispose()
  student.dispose()
})

test('density 1 is the run without it, bit for bit; a resume is exact', async () => {
  const options = { steps: 4 }
  expect(await outcome([setEntry.create({ density: 1 })], options)).toEqual(await outcome([], options))
  await expectResume(() => [setEntry.create({ density: 0.3, every: 2 })], { precision: 'bf16' }, [2, 3])
})
