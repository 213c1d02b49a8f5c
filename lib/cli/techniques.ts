// `leanformer techniques`: every technique, optimiser and initialiser with its source, its evidence, its settings and
// what it cannot be combined with, by category. With --json one JSON object.
import type { Writable } from 'node:stream'
import { categories, type Entry } from '../catalog/entry'
import { verdictOf, type Verdict } from '../catalog/verdict'
import { techniquesSchema } from './config'
import { listEntries } from './entries'
import { resolveOptions } from './options'

const flagOf = { technique: '--technique', optimizer: '--optimizer', initializer: '--init' }

export async function techniquesCommand(flags: Record<string, unknown>, stdout: Writable = process.stdout): Promise<number> {
  const { json } = resolveOptions(techniquesSchema, [{ origin: 'flag', values: flags }]).values
  const kinds = ['initializer', 'optimizer', 'technique'] as const
  const entries = (await Promise.all(kinds.map((kind) => listEntries(kind)))).flat()
  if (json) {
    const plain = entries.map(({ kind, name, title, category, source, settings, excludes = {} }) => ({
      kind, name, title, category, source, settings, excludes, verdict: verdictOf({ kind, name }) ?? null,
    }))
    stdout.write(JSON.stringify({ entries: plain }) + '\n')
    return 0
  }
  for (const category of categories) {
    const here = entries.filter((entry) => entry.category === category)
    if (here.length) stdout.write(`${category}\n`)
    for (const entry of here) stdout.write(describe(entry, flagOf[entry.kind], verdictOf(entry)))
  }
  return 0
}

function describe({ name, title, source, settings, excludes = {} }: Entry, flag: string, verdict?: Verdict): string {
  const lines = [`  ${flag} ${name}`, `      ${title}. ${source}`]
  const { verdict: word, against, difference, card } = verdict ?? {}
  lines.push(`      evidence: ${word ? `${word} against ${against}, ${difference} bits per byte (docs/evidence/${card}.md)` : 'no card yet'}`)
  for (const [key, { default: value, help }] of Object.entries(settings)) lines.push(`      ${key}=${String(value)}  ${help}`)
  for (const [other, why] of Object.entries(excludes)) lines.push(`      not with ${other}: ${why}`)
  return lines.join('\n') + '\n'
}
