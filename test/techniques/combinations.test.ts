// Every pair of techniques, and of techniques, optimisers and initialisers (with the kinds of attention among both): either the run
// is refused before it begins, by an error that names both and says why, or it trains 20 steps, stays finite, and goes on
// from a checkpoint bit for bit. Pairs are read from the catalogue; the order of the two alternates. A run takes a third of
// them, another one each day; `npm run test:pairs` takes all, with --swapped in the other order.
import { whyNotTogether } from '../../lib/catalog/entry'
import type { LeanformerError } from '../../lib/native/errors'
import { completed, configOf, differences, entriesOf, removeFolder, runTo, type Listed } from '../support/catalog'

let techniques: Listed[]
let optimizers: Listed[]
let initializers: Listed[]
beforeAll(async () => {
  ;[techniques, optimizers, initializers] = [await entriesOf('technique'), await entriesOf('optimizer'), await entriesOf('initializer')]
})
afterAll(removeFolder)

/** Why two of the entries exclude each other, and their names. */
function refusal(entries: readonly Listed[]): { why: string; names: string[] } | undefined {
  const pairs = entries.flatMap((a, i) => entries.slice(i + 1).map((b) => ({ why: whyNotTogether(a, b), names: [a.name, b.name] })))
  return pairs.find((pair): pair is { why: string; names: string[] } => pair.why !== undefined)
}

/** What is wrong with a pair; undefined where nothing is. */
async function problem(pair: readonly Listed[]): Promise<string | undefined> {
  const entries = completed(pair, techniques)
  const refused = refusal(entries)
  const made = await configOf(entries)
  let whole
  try {
    whole = await runTo(made, { at: 9 })
  } catch (error) {
    const { code, message } = error as LeanformerError
    if (refused && code === 'ERR_OPTION' && [...refused.names, refused.why].every((part) => message.includes(part))) return undefined
    return `${code}: ${message}`
  }
  if (refused) return `was to be refused, since ${refused.why}`
  if (whole.losses.length !== 21 || !whole.losses.every(Number.isFinite)) return `losses ${whole.losses.join(', ')}`
  const resumed = await runTo(made, { from: whole.saved })
  const again = resumed.losses.length
  if (whole.losses.slice(-again).join() !== resumed.losses.join()) return 'losses differ after the resume'
  const differ = differences(whole.end.tensors, resumed.end.tensors)
  return differ.length ? `${differ.length} tensors differ after the resume: ${differ.slice(0, 3).join(', ')}` : undefined
}

const slices = process.env.LEANFORMER_ALL_PAIRS === '1' ? 1 : 3
const swapped = process.env.LEANFORMER_SWAPPED_PAIRS === '1'
const today = Math.floor(Date.now() / 86_400_000)

async function problems(pairs: readonly (readonly Listed[])[]): Promise<string[]> {
  const found: string[] = []
  for (const [i, pair] of pairs.entries()) {
    if (i % slices !== today % slices) continue
    const ordered = (i % 2 === 1) !== swapped ? [...pair].reverse() : pair
    const what = await problem(ordered).catch((error: Error) => error.message)
    if (what !== undefined) found.push(`${ordered.map(({ name }) => name).join(' + ')}: ${what}`)
  }
  return found
}

const across = (a: readonly Listed[], b: readonly Listed[]) => a.flatMap((x) => b.map((y) => [x, y]))

test('each two techniques', async () => {
  expect(techniques.length).toBeGreaterThanOrEqual(35)
  expect(await problems(techniques.flatMap((a, i) => techniques.slice(i + 1).map((b) => [a, b])))).toEqual([])
}, 1_800_000)

test('each technique with each optimiser', async () => {
  expect(await problems(across(techniques, optimizers))).toEqual([])
}, 1_800_000)

test('each technique with each initialiser', async () => {
  expect(await problems(across(techniques, initializers))).toEqual([])
}, 1_800_000)

test('each optimiser with each initialiser', async () => {
  expect(await problems(across(optimizers, initializers))).toEqual([])
}, 1_800_000)
