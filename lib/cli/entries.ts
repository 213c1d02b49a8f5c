// Techniques, optimisers, initialisers and models by the name of their file, so that a new one is not listed anywhere. A file is
// one of them when it exports an entry whose name is the file's.
import { readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { parseEntry, type EntryKind } from '../catalog/entry'
import type { InitializerEntry } from '../init/model_initializer'
import type { ModelEntry } from '../models/model_entry'
import type { OptimizerEntry } from '../optim/optimizer'
import type { TechniqueEntry } from '../techniques/technique'
import { nearest, optionError } from './options'

export interface EntryTypes {
  technique: TechniqueEntry
  optimizer: OptimizerEntry
  initializer: InitializerEntry
  model: ModelEntry
}

const flags: Record<EntryKind, string> = { technique: '--technique', optimizer: '--optimizer', initializer: '--init', model: '--model' }

// The bundler makes a table of each of these from the files that are there.
const load: Record<EntryKind, (stem: string) => Promise<Record<string, unknown>>> = {
  technique: (stem) => import(`../techniques/${stem}.ts`) as Promise<Record<string, unknown>>,
  optimizer: (stem) => import(`../optim/${stem}.ts`) as Promise<Record<string, unknown>>,
  initializer: (stem) => import(`../init/${stem}.ts`) as Promise<Record<string, unknown>>,
  model: (stem) => import(`../models/${stem}.ts`) as Promise<Record<string, unknown>>,
}
const folders: Record<EntryKind, string> = { technique: 'techniques', optimizer: 'optim', initializer: 'init', model: 'models' }

async function entryOf<K extends EntryKind>(kind: K, stem: string): Promise<EntryTypes[K] | undefined> {
  const isIt = (value: unknown): value is EntryTypes[K] =>
    typeof value === 'object' && value !== null && 'kind' in value && value.kind === kind && (value as EntryTypes[K]).name === stem
  return Object.values(await load[kind](stem)).find(isIt)
}

/** All entries of a kind, in alphabetical order. */
export async function listEntries<K extends EntryKind>(kind: K): Promise<EntryTypes[K][]> {
  const root = path.dirname(createRequire(import.meta.url).resolve('leanformer/package.json'))
  const stems = readdirSync(path.join(root, 'dist', folders[kind])).flatMap((file) => /^([a-z0-9_]+)\.js$/.exec(file)?.[1] ?? [])
  const entries = await Promise.all(stems.sort().map((stem) => entryOf(kind, stem)))
  return entries.filter((entry) => entry !== undefined)
}

/** The entry that `name` or `name:setting=value,...` asks for, and the settings given. @throws ERR_OPTION */
export async function findEntry<K extends EntryKind>(kind: K, text: string): Promise<{ entry: EntryTypes[K]; given: Record<string, never> }> {
  const { name, given } = parseEntry(text)
  // An unknown name throws at once in the bundle, rejects elsewhere.
  const entry = /^[a-z][a-z0-9_]*$/.test(name) ? await Promise.resolve().then(() => entryOf(kind, name)).catch(unlessMissing) : undefined
  if (entry) return { entry, given: given as Record<string, never> }
  const known = (await listEntries(kind)).map((each) => each.name)
  const guess = nearest(name, known)
  throw optionError(`${flags[kind]} ${name} is not here`, guess ? `did you mean ${guess}?` : `there are: ${known.join(', ')}`)
}

function unlessMissing(error: unknown): undefined {
  const { code, message } = error as { code?: string; message?: string }
  if (/NOT_FOUND/.test(code ?? '') || /^(Unknown variable dynamic import|Module not found|Cannot find module)/.test(message ?? '')) return undefined
  throw error
}
