// `npm run evidence -- NAME...` runs evidence cards (bench/evidence/cards) and writes docs/evidence; `--all` every card that
// has no record yet, `--index` only what follows from the records. `--seeds N` for more than 5.
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { commonOptions, type Card } from './card'
import { differenceText } from './pages'
import { folder, readRecords, recordOf } from './record'
import { writeGenerated } from './write'

const known = readdirSync('bench/evidence/cards').map((file) => file.replace(/\.ts$/, '')).sort()
const args = process.argv.slice(2)
const at = args.indexOf('--seeds')
const count = at < 0 ? 5 : Number(args.splice(at, 2)[1])
if (!Number.isInteger(count) || count < 5) throw new Error(`--seeds ${count}: give a whole number from 5`)
const done = () => new Set(readRecords().map((record) => record.name))
const names = args.includes('--all') ? known.filter((name) => !done().has(name)) : args.filter((name) => name !== '--index')
for (const name of names) if (!known.includes(name)) throw new Error(`${name} is not a card; there are ${known.join(', ')}`)
if (!names.length && !args.length) {
  console.log(`usage: npm run evidence -- NAME... | --all | --index\ncards: ${known.join(', ')}`)
  process.exit(2)
}

mkdirSync(folder, { recursive: true })
for (const name of names) {
  const { default: card } = (await import(`./cards/${name}.ts`)) as { default: Card }
  const { measure } = await import('./measure') // writing the pages needs no native code
  console.log(`${name}: ${card.title}`)
  const seeds = Array.from({ length: count }, (_, i) => i + 1)
  const started = performance.now()
  const measured = await measure(card, seeds, (text) => console.log(`  ${text}`))
  const record = recordOf(name, card, { ...commonOptions, ...card.options }, measured)
  writeFileSync(path.join(folder, `${name}.json`), JSON.stringify(record, null, 1) + '\n')
  writeGenerated()
  console.log(`  ${record.verdict}: ${differenceText(record)} bits per byte, ${((performance.now() - started) / 1000).toFixed(0)} s`)
}
writeGenerated()
