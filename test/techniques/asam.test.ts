// ASAM in training: the loss falls, radius 0 is neutral, exact resume, refusal beside SAM. Its numbers are in sam.test.ts.
import { checkCombination } from '../../lib/catalog/entry'
import { asamEntry } from '../../lib/techniques/asam'
import { samEntry } from '../../lib/techniques/sam'
import { expectResume, outcome } from '../support/techniques'

test('trains, and radius 0 is the run without it, bit for bit', async () => {
  const { losses } = await outcome([asamEntry.create()], { steps: 40 })
  expect(losses[39]).toBeLessThan(losses[0] - 0.5)
  const options = { steps: 4, config: { dropout: 0.1 } }
  expect(await outcome([asamEntry.create({ rho: 0 })], options)).toEqual(await outcome([], options))
})

test('resumes bit for bit', () => expectResume(() => [asamEntry.create()], { steps: 5 }))

test('beside SAM it is refused', () => {
  expect(() => checkCombination([asamEntry, samEntry])).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
})
