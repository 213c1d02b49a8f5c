// `leanformer techniques`: every technique, optimiser and initialiser with its source, its evidence, its settings and
// what it cannot be combined with, by category. With --json one JSON object.
import type { Writable } from 'node:stream'
import { categories, whyNotTogether, type Entry, type EntryKind } from '../catalog/entry'
import { verdictOf, type Verdict } from '../catalog/verdict'
import { techniquesSchema } from './config'
import { listEntries } from './entries'
import { resolveOptions } from './options'

type Listed = Entry & { kind: EntryKind }

const flagOf = { technique: '--technique', optimizer: '--optimizer', initializer: '--init' }

export async function techniquesCommand(flags: Record<string, unknown>, stdout: Writable = process.stdout): Promise<number> {
  const { json } = resolveOptions(techniquesSchema, [{ origin: 'flag', values: flags }]).values
  const kinds = ['initializer', 'optimizer', 'technique'] as const
  const entries = (await Promise.all(kinds.map((kind) => listEntries(kind)))).flat()
  if (json) {
    const plain = entries.map((entry) => {
      const { kind, name, title, category, source, settings, neutral = null } = entry
      return { kind, name, title, category, source, settings, neutral, ...combinations(entry, entries), verdict: verdictOf(entry) ?? null }
    })
    stdout.write(JSON.stringify({ entries: plain }) + '\n')
    return 0
  }
  for (const category of categories) {
    const here = entries.filter((entry) => entry.category === category)
    if (here.length) stdout.write(`${category}\n`)
    for (const entry of here) stdout.write(describe(entry, combinations(entry, entries), flagOf[entry.kind], verdictOf(entry)))
  }
  return 0
}

/** Names of what an entry goes with, and why not with the others. Of its own kind there is only one optimiser and initialiser. */
function combinations(entry: Listed, all: readonly Listed[]): { combines: string[]; excludes: Record<string, string> } {
  const others = all.filter((other) => other !== entry && (other.kind !== entry.kind || entry.kind === 'technique'))
  const refused = others.flatMap((other) => {
    const why = whyNotTogether(entry, other)
    return why === undefined ? [] : [[other.name, why] as const]
  })
  const excludes = Object.fromEntries(refused)
  return { combines: others.map(({ name }) => name).filter((name) => !(name in excludes)), excludes }
}

/** `what` about names, with those of one reason together. */
function byReason(excludes: Record<string, string>): string[] {
  const reasons = new Map<string, string[]>()
  for (const [name, why] of Object.entries(excludes)) reasons.set(why, [...(reasons.get(why) ?? []), name])
  return [...reasons].map(([why, names]) => `      not with ${names.join(', ')}: ${why}`)
}

type Combinations = ReturnType<typeof combinations>

function describe({ name, title, source, settings, neutral }: Entry, { combines, excludes }: Combinations, flag: string, verdict?: Verdict): string {
  const lines = [`  ${flag} ${name}`, `      ${title}. ${source}`]
  const { verdict: word, against, difference, card } = verdict ?? {}
  lines.push(`      evidence: ${word ? `${word} against ${against}, ${difference} bits per byte (docs/evidence/${card}.md)` : 'no card yet'}`)
  for (const [key, { default: value, help }] of Object.entries(settings)) lines.push(`      ${key}=${String(value)}  ${help}`)
  if (typeof neutral === 'object' && !neutral.until) lines.push(`      off by ${Object.entries(neutral.settings).map(([key, value]) => `${key}=${value}`).join(',')}`)
  const refused = byReason(excludes)
  lines.push(`      goes with ${refused.length ? `the other ${combines.length} entries` : 'every other entry'}`, ...refused)
  return lines.join('\n') + '\n'
}
