// Off means off: at the neutral setting that its file names, each technique gives bit for bit the run without it: losses, weights,
// optimiser state, with dropout and accumulation on. Techniques that add parameters to a frozen model and cannot be off
// give its loss before their first update. The others say why they have no such setting.
import { configOf, differences, entriesOf, removeFolder, runTo, type Course, type Listed } from '../support/catalog'

const over = { steps: 6, evalEvery: 6, accumulate: 2, dropout: 0.1 }
let plain: Course
beforeAll(async () => {
  plain = await runTo(await configOf([], over))
})
afterAll(removeFolder)

const own = ({ tensors }: Course['end']) => Object.fromEntries(Object.entries(tensors).filter(([name]) => !name.startsWith('technique.')))

async function problem(entry: Listed): Promise<string | undefined> {
  const { neutral } = entry
  if (neutral === undefined) return 'its file names no neutral setting'
  if (typeof neutral === 'string') return /^none: \S+/.test(neutral) ? undefined : `'${neutral}' does not say why there is none`
  const run = await runTo(await configOf([entry], { ...over, own: neutral.settings }))
  if (neutral.until === 'first update') return run.losses[0] === plain.losses[0] ? undefined : `its first loss is ${run.losses[0]}, not ${plain.losses[0]}`
  if (run.losses.join() !== plain.losses.join()) return `losses ${run.losses.join(', ')}, not ${plain.losses.join(', ')}`
  const differ = differences(own(run.end), own(plain.end))
  return differ.length ? `${differ.length} tensors differ: ${differ.slice(0, 3).join(', ')}` : undefined
}

test('every technique at its neutral setting', async () => {
  const found: string[] = []
  for (const entry of await entriesOf('technique')) {
    const what = await problem(entry).catch((error: Error) => error.message)
    if (what !== undefined) found.push(`${entry.name}: ${what}`)
  }
  expect(found).toEqual([])
}, 600_000)
