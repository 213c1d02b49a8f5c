// m-SAM: with one micro-batch it is SAM, with more it is not; exact resume.
import { mSamEntry } from '../../lib/techniques/m_sam'
import { samEntry } from '../../lib/techniques/sam'
import { expectResume, outcome } from '../support/techniques'

const config = { dropout: 0.1 }

test('with one micro-batch it is SAM bit for bit; with two it is another algorithm', async () => {
  const one = { steps: 4, config }
  expect(await outcome([mSamEntry.create()], one)).toEqual(await outcome([samEntry.create()], one))
  const two = { steps: 4, accumulate: 2, config }
  const [m, exact] = [await outcome([mSamEntry.create()], two), await outcome([samEntry.create()], two)]
  expect(m.losses[0]).toBeCloseTo(exact.losses[0], 6)
  expect(m.losses[3]).not.toBe(exact.losses[3])
  expect(Math.abs(m.losses[3] - exact.losses[3])).toBeLessThan(0.05)
})

test('radius 0 is the run without it, bit for bit', async () => {
  const options = { steps: 4, accumulate: 2, config }
  expect(await outcome([mSamEntry.create({ rho: 0 })], options)).toEqual(await outcome([], options))
})

test('resumes bit for bit', () => expectResume(() => [mSamEntry.create()], { steps: 5, accumulate: 2, config }))
