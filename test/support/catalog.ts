// Tiny runs of what the catalogue has, made as the command line makes them: every entry is found by its file, so that a new one
// is part of the tests by being there.
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { Entry, EntryKind } from '../../lib/catalog/entry'
import { resolveTrainConfig, type TrainConfig } from '../../lib/cli/config'
import { findEntry } from '../../lib/cli/entries'
import { trainCommand } from '../../lib/cli/train'
import { startTraining } from '../../lib/cli/training_run'
import { loadTextDataset, type TextDataset } from '../../lib/data/tokens'
import { decodeState, encodeState } from '../../lib/train/checkpoint_file'
import type { Checkpoint, Trainer } from '../../lib/train/trainer'
import { Writable } from 'node:stream'

export type Listed = Entry & { kind: EntryKind }
const folders = { technique: 'techniques', optimizer: 'optim', initializer: 'init' } as const

/** All entries of a kind. */
export async function entriesOf(kind: keyof typeof folders): Promise<Listed[]> {
  const stems = readdirSync(path.join(__dirname, '../../lib', folders[kind])).map((file) => file.replace(/\.ts$/, ''))
  const found: Listed[] = []
  for (const stem of stems.sort()) {
    const exported = (await import(`../../lib/${folders[kind]}/${stem}.ts`)) as Record<string, unknown>
    if (Object.values(exported).some((value) => (value as Listed | null)?.kind === kind && (value as Listed).name === stem)) {
      found.push((await findEntry(kind, stem)).entry as Listed)
    }
  }
  return found
}

/** Values that make a technique act within 20 steps of 12 tokens, wherever it has a setting of that name. */
const brisk: Record<string, number> = {
  every: 4, redraw: 5, interval: 3, window: 4, features: 8, multiple: 2, rank: 2, length: 2, bottleneck: 2, threshold: 1e-3, rounds: 2,
}

const folder = mkdtempSync(path.join(tmpdir(), 'leanformer-catalog-'))
export const removeFolder = () => rmSync(folder, { recursive: true, force: true })

const silent = () => new Writable({ write: (_chunk, _encoding, done) => done() })
const terminal = () => ({ stdout: silent(), stderr: silent(), env: {}, onInterrupt: () => () => {}, exit: () => {} })

const flags = {
  tokenizer: 'chars', layers: 2, width: 16, heads: 2, context: 12, positions: 'rotary', bias: true, batch: 2, lr: 1e-3,
  steps: 20, evalEvery: 20, evalTokens: 24, threads: 1, device: 'cpu', json: true, seed: 3,
}

let prepared: Promise<{ base: TrainConfig; data: TextDataset }> | undefined
function prepare() {
  return (prepared ??= (async () => {
    const text = path.join(folder, 'text.txt')
    const words = ['a cab', 'bead', 'cafe', 'dab', 'face a', 'bed']
    writeFileSync(text, Array.from({ length: 400 }, (_, i) => words[(i * i + (i >> 2)) % words.length]).join(' '))
    const { values: base } = resolveTrainConfig({ flags: { ...flags, text } })
    return { base, data: await loadTextDataset(base) }
  })())
}

/** A teacher for distillation, for a model with this initialiser. */
const teachers = new Map<string, Promise<string>>()
function teacherOf(init: string | undefined): Promise<string> {
  const key = init ?? 'none'
  if (!teachers.has(key)) {
    const make = async () => {
      const { base } = await prepare()
      const out = path.join(folder, `teacher-${key}`)
      await trainCommand({ ...flags, text: base.text, ...(init ? { init } : {}), steps: 1, evalEvery: 1, out }, startTraining, terminal())
      return out
    }
    teachers.set(key, make())
  }
  return teachers.get(key)!
}

/** Techniques that show with several micro-batches alone. */
const accumulating = ['m_sam', 'noise_scale']

/** Techniques for runs without clipping alone. */
const unclipped = ['update_in_backward']

/** A technique as --technique has it, with these settings over brisk ones. */
async function textOf({ name, settings }: Listed, init: string | undefined, own: Readonly<Record<string, unknown>> = {}): Promise<string> {
  const values: Record<string, unknown> = { ...Object.fromEntries(Object.entries(brisk).filter(([key]) => typeof settings[key]?.default === 'number')), ...own }
  if ('teacher' in settings) values.teacher = await teacherOf(init)
  const list = Object.entries(values).map(([key, value]) => `${key}=${String(value)}`)
  return list.length ? `${name}:${list.join(',')}` : name
}

/** The entries, and those that they need. */
export function completed(entries: readonly Listed[], all: readonly Listed[]): Listed[] {
  const missing = entries.flatMap(({ needs }) => (needs && !entries.some(({ name }) => name === needs.technique) ? all.find(({ name }) => name === needs.technique)! : []))
  return [...entries, ...missing]
}

/** Options of a run with these entries, in their order. */
export async function configOf(entries: readonly Listed[], { own, ...over }: Partial<TrainConfig> & { own?: Readonly<Record<string, unknown>> } = {}) {
  const { base, data } = await prepare()
  const init = entries.find(({ kind }) => kind === 'initializer')?.name
  const optimizer = entries.find(({ kind }) => kind === 'optimizer') ?? entries.map(({ onlyWith }) => onlyWith).find((only) => only?.kind === 'optimizer')
  const technique: string[] = []
  for (const entry of entries) if (entry.kind === 'technique') technique.push(await textOf(entry, init, own))
  const accumulate = entries.some(({ name }) => accumulating.includes(name)) ? 2 : 1
  const clip = entries.some(({ name }) => unclipped.includes(name)) ? 0 : base.clip
  return { config: { ...base, accumulate, clip, ...(init ? { init } : {}), ...(optimizer ? { optimizer: optimizer.name } : {}), technique, ...over } as TrainConfig, data }
}

/** Losses, validation loss and the whole state at the end of a run; `at` gives the state after that many steps, too. */
export interface Course {
  losses: number[]
  end: Checkpoint
  saved?: Checkpoint
}

/** Runs a configuration to its end, from `from` if it is given. */
export async function runTo({ config, data }: { config: TrainConfig; data: TextDataset }, { at, from }: { at?: number; from?: Checkpoint } = {}): Promise<Course> {
  const run = await startTraining(config, data)
  const trainer = run.trainer as Trainer
  try {
    if (from) trainer.load({ tensors: from.tensors, state: decodeState(encodeState(from.state)) })
    const losses: number[] = []
    let saved: Checkpoint | undefined
    for await (const { step, loss, valLoss } of trainer.train()) {
      losses.push(loss, ...(valLoss === undefined ? [] : [valLoss]))
      if (step === at) saved = await trainer.state()
    }
    return { losses, end: await trainer.state(), saved }
  } finally {
    await run.dispose?.()
  }
}

/** Names of tensors whose bits differ, or that only one has. */
export function differences(a: Checkpoint['tensors'], b: Checkpoint['tensors']): string[] {
  const bytes = ({ data }: Checkpoint['tensors'][string]) => Buffer.from(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)
  return [...new Set([...Object.keys(a), ...Object.keys(b)])].filter((name) => !a[name] || !b[name] || !bytes(a[name]).equals(bytes(b[name])))
}
