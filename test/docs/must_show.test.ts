// docs/must_show.md names a test or a command for every claim: each must be there, so that the page cannot rot.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'

const root = path.join(__dirname, '..', '..')
const read = (file: string) => readFileSync(path.join(root, file), 'utf8')
const rows = read('docs/must_show.md').split('\n').filter((line) => /^\| (?!technique|---)/.test(line))

/** What is wrong with a row of the table. */
function problems(row: string): string[] {
  const [, , claim, where] = row.split(/(?<!\\)\|/).map((cell) => cell.trim())
  const found: string[] = []
  const tests = [...where.matchAll(/`(test\/[^`]+)` `([^`]+)`/g)]
  for (const [, file, title] of tests) {
    if (!existsSync(path.join(root, file))) found.push(`there is no ${file}`)
    else if (!["'", '"', '`'].some((quote) => read(file).includes(quote + title + quote))) found.push(`${file} has no test '${title}'`)
  }
  const commands = [...where.matchAll(/`npm run ([\w:]+)(?: -- ([\w-]+))?`/g)]
  for (const [, script, name] of commands) {
    if (!read('package.json').includes(`"${script}":`)) found.push(`there is no npm run ${script}`)
    if (script === 'bench' && !new RegExp(`^  '?${name}'?: `, 'm').test(read('bench/run.ts'))) found.push(`there is no benchmark ${name}`)
  }
  if (!tests.length && !commands.length && !/^not here: \S/.test(where)) found.push('it names neither a test nor a command')
  return found.map((what) => `${claim}: ${what}`)
}

test('every claim has a test or a command that exists', () => {
  expect(rows.length).toBeGreaterThan(120)
  expect(rows.flatMap(problems)).toEqual([])
})

test('every section is there', () => {
  const sections: Record<number, number> = { 1: 7, 2: 15, 3: 7, 4: 6, 5: 3, 6: 4, 7: 3, 9: 6, 10: 2, 11: 2, 12: 6, 13: 6 }
  const seen = new Set(rows.map((row) => /^\| (\d+\.\d+) /.exec(row)?.[1]))
  const missing = Object.entries(sections).flatMap(([section, last]) => Array.from({ length: last }, (_, i) => `${section}.${i + 1}`).filter((each) => !seen.has(each)))
  expect(missing).toEqual([])
})

test('the main page shows the frontier of loss against FLOPs of at least 20 cards, each over at least 5 seeds', () => {
  expect(read('README.md')).toContain('![Validation loss against training FLOPs of every card](docs/evidence/frontier.svg)')
  expect(read('docs/evidence/frontier.svg')).toMatch(/FLOPs/)
  const records = readdirSync(path.join(root, 'docs/evidence')).filter((file) => file.endsWith('.json'))
  expect(records.length).toBeGreaterThanOrEqual(20)
  for (const file of records) {
    const { seeds } = JSON.parse(read(`docs/evidence/${file}`)) as { seeds: number[] }
    expect([file, seeds.length >= 5]).toEqual([file, true])
  }
})
