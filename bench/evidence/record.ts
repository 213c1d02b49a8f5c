// What a card leaves behind: docs/evidence/NAME.json, from which its page, the index, the frontier and the verdicts that
// `leanformer techniques` shows are all written again at any time.
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import type { KernelsReport, MeasuredPoint } from '../../lib/cli/kernels'
import type { Card } from './card'
import type { ArmResult, Measured } from './measure'
import { costVerdict, interval, lossVerdict, type Interval, type Verdict } from './statistics'

export const folder = path.join('docs', 'evidence')

/** Losses nearer than this share of the baseline's are called equal. */
const marginShare = 0.01

export interface ArmSummary {
  label: string
  /** Flags of `leanformer train`. */
  flags: string
  steps: number
  lr: number
  search: { lr: number; bitsPerByte: number | null }[]
  bitsPerByte: { values: (number | null)[] } & Interval
  flops: number
  cpuSeconds: number
  peakBytes: number
  tokens: number
}

export interface CardRecord {
  name: string
  title: string
  about: NonNullable<Card['about']>
  claim: string
  budget: Card['budget']
  improves: NonNullable<Card['improves']>
  when: string
  seeds: number[]
  commonFlags: string
  /** Of the run whose weights both arms start from, over the common ones. */
  pretrainFlags?: string
  /** Of the teacher, over the common ones. */
  teacherFlags?: string
  baseline: ArmSummary
  technique: ArmSummary
  /** Technique minus baseline in bits per byte, seed by seed; null where a run diverged. */
  difference: Interval | null
  /** Technique over baseline. */
  ratio: { flops: number; cpuSeconds: number; peakBytes: number }
  margin: number
  verdict: Verdict
  /** What `leanformer kernels` measured of a run. */
  kernels?: { trainFlags: string; flags: string; loss: number; cost: 'seconds' | 'flops' } & Record<'single' | 'frontier', KernelsRow[]> & { chosen: KernelsRow }
}

export interface KernelsRow extends Omit<MeasuredPoint, 'kernels'> {
  /** How many units go through each kernel. */
  units: Record<string, number>
}

/** Where a reader's teacher is, in place of the folder that {teacher} stood for. */
const teacherRun = 'runs/teacher'

const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length
const finite = (value: number) => (Number.isFinite(value) ? value : null)

/** Options as the command line takes them. */
export function flagsOf(options: Readonly<Record<string, unknown>>): string {
  const parts = Object.entries(options).flatMap(([key, value]) => {
    const flag = `--${key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`
    if (value === undefined || key === 'json') return []
    if (Array.isArray(value)) return value.map((item) => `${flag} ${String(item)}`)
    if (typeof value === 'boolean') return [value ? flag : flag.replace('--', '--no-')]
    return [`${flag} ${String(value)}`]
  })
  return parts.join(' ')
}

function kernelsRow({ kernels, cost, change, measured, ms }: MeasuredPoint): KernelsRow {
  const units: Record<string, number> = {}
  for (const kernel of kernels) units[kernel] = (units[kernel] ?? 0) + 1
  return { units, cost, change, measured, ms }
}

function kernelsRecord({ train, flags }: NonNullable<Card['kernels']>, { loss, cost, single, frontier, chosen }: KernelsReport): CardRecord['kernels'] {
  return {
    trainFlags: flagsOf({ ...train, seed: 1 }), flags: flagsOf(flags), loss, cost,
    single: single.map(kernelsRow), frontier: frontier.map(kernelsRow), chosen: kernelsRow(chosen),
  }
}

function summary({ label, options, steps, lr, search, runs }: ArmResult): ArmSummary {
  const values = runs.map((run) => run.bitsPerByte)
  const { mean: center, low, high } = values.every(Number.isFinite) ? interval(values) : { mean: NaN, low: NaN, high: NaN }
  return {
    label,
    flags: flagsOf({ ...options, steps, lr }).replace('{teacher}', teacherRun),
    steps,
    lr,
    search: search.map((tried) => ({ lr: tried.lr, bitsPerByte: finite(tried.bitsPerByte) })),
    bitsPerByte: { values: values.map(finite), mean: center, low, high },
    flops: mean(runs.map((run) => run.flops)),
    cpuSeconds: mean(runs.map((run) => run.cpuSeconds)),
    peakBytes: Math.max(...runs.map((run) => run.peakBytes)),
    tokens: mean(runs.map((run) => run.tokens)),
  }
}

export function recordOf(name: string, card: Card, common: object, { seeds, baseline, technique, kernels }: Measured): CardRecord {
  const [a, b] = [summary(baseline), summary(technique)]
  const differences = technique.runs.map((run, i) => run.bitsPerByte - baseline.runs[i].bitsPerByte)
  const difference = differences.every(Number.isFinite) ? interval(differences) : null
  const margin = marginShare * a.bitsPerByte.mean
  const improves = card.improves ?? 'loss'
  const cost = improves === 'seconds' ? 'cpuSeconds' : improves
  let verdict: Verdict = 'worse' // a run that diverged
  if (difference && cost === 'loss') verdict = lossVerdict(difference, margin)
  else if (difference) {
    const ratios = technique.runs.map((run, i) => run[cost as 'flops'] / baseline.runs[i][cost as 'flops'])
    verdict = costVerdict(difference, margin, interval(ratios))
  }
  const ratio = { flops: b.flops / a.flops, cpuSeconds: b.cpuSeconds / a.cpuSeconds, peakBytes: b.peakBytes / a.peakBytes }
  if (card.budget === 'flops' && Math.abs(ratio.flops - 1) > 0.03) {
    throw new Error(`${name}: the arms spent ${ratio.flops.toFixed(3)} : 1 FLOPs, which is not an equal budget`)
  }
  return {
    name, title: card.title, about: card.about ?? [], claim: card.claim, budget: card.budget, improves, when: card.when, seeds,
    commonFlags: flagsOf(common as Record<string, unknown>),
    ...(card.pretrain && { pretrainFlags: flagsOf(card.pretrain) }),
    ...(card.teacher && { teacherFlags: flagsOf({ ...card.teacher, out: teacherRun }) }),
    baseline: a, technique: b, difference, ratio, margin, verdict,
    ...(card.kernels && kernels && { kernels: kernelsRecord(card.kernels, kernels) }),
  }
}

/** All cards that have been run, by name. */
export function readRecords(): CardRecord[] {
  const files = readdirSync(folder).filter((file) => file.endsWith('.json')).sort()
  return files.map((file) => JSON.parse(readFileSync(path.join(folder, file), 'utf8')) as CardRecord)
}
