// Runs the two arms of a card. Steps come from a forecast of the FLOPs, so that both spend the same FLOPs; the learning
// rate is searched with a seed of its own; then every seed trains both arms, with the same data order and first weights.
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { Writable } from 'node:stream'
import { resolveTrainConfig } from '../../lib/cli/config'
import { kernelsCommand, type KernelsReport } from '../../lib/cli/kernels'
import { trainCommand } from '../../lib/cli/train'
import { startTraining } from '../../lib/cli/training_run'
import { loadTextDataset } from '../../lib/data/tokens'
import { bitsPerByte } from '../../lib/train/metrics'
import { median } from '../../lib/train/format'
import { getDevice } from '../../lib/tensor/device'
import type { Checkpoint } from '../../lib/train/trainer'
import { commonOptions, type Arm, type Card, type Options } from './card'

export interface RunResult {
  bitsPerByte: number
  flops: number
  /** Processor time of the whole process over the training steps. */
  cpuSeconds: number
  stepMs: number
  /** Highest bytes of the run's tensors: weights, optimiser state, activations. */
  peakBytes: number
  tokens: number
}

export interface ArmResult {
  label: string
  options: Options
  steps: number
  lr: number
  /** Bits per byte of every learning rate that was tried. */
  search: { lr: number; bitsPerByte: number }[]
  runs: RunResult[]
}

export interface Measured {
  seeds: number[]
  baseline: ArmResult
  technique: ArmResult
  kernels?: KernelsReport
}

const searchSeed = 4242
const cacheFolder = path.join('build', 'evidence')

/** A run's options, and those of the run whose weights it starts from. */
interface Plan {
  options: Options
  pretrain?: Options
}

/** Runs are kept by what decides them: the options, and the library itself. */
function cacheFile({ options, pretrain }: Plan): string {
  const plan = JSON.stringify(pretrain ? [pretrain, options] : options)
  return path.join(cacheFolder, createHash('sha256').update(`${library()} ${plan}`).digest('hex').slice(0, 32) + '.json')
}

let libraryHash: string | undefined
function library(): string {
  if (libraryHash) return libraryHash
  const hash = createHash('sha256')
  for (const file of readdirSync('lib', { recursive: true, encoding: 'utf8' }).sort()) {
    if (file.endsWith('.ts') && !file.endsWith('verdicts.gen.ts')) hash.update(file).update(readFileSync(path.join('lib', file)))
  }
  return (libraryHash = hash.update(readFileSync('build/Release/addon.node')).digest('hex'))
}

/** Trains once; a diverged run has infinite bits per byte. */
async function train(plan: Plan, progress: (text: string) => void): Promise<RunResult> {
  const file = cacheFile(plan)
  if (existsSync(file)) {
    const kept = JSON.parse(readFileSync(file, 'utf8')) as RunResult & { bitsPerByte: number | null }
    return { ...kept, bitsPerByte: kept.bitsPerByte ?? Infinity }
  }
  const result = await trainOnce(plan)
  mkdirSync(cacheFolder, { recursive: true })
  writeFileSync(file, JSON.stringify(result))
  progress(`${describe(plan.options)}: ${result.bitsPerByte.toFixed(4)} bits per byte, ${result.cpuSeconds.toFixed(1)} s`)
  return result
}

const describe = ({ optimizer = 'adamw', technique = [], lr, steps, seed }: Options) =>
  `${[optimizer, ...technique].join(' + ')}, lr ${lr}, ${steps} steps, seed ${seed}`

const pretrained = new Map<string, Promise<Checkpoint['tensors']>>()

/** The model tensors at the end of a run; trained once a process. */
function weightsOf(options: Options): Promise<Checkpoint['tensors']> {
  const key = JSON.stringify(options)
  const made = pretrained.get(key) ?? (async () => {
    const { values: config } = resolveTrainConfig({ flags: { ...options, evalEvery: options.steps, evalTokens: 64 } })
    const run = await startTraining(config, await loadTextDataset(config))
    for await (const _ of run.trainer.train());
    const { tensors } = await run.trainer.state()
    await run.dispose?.()
    return Object.fromEntries(Object.entries(tensors).filter(([name]) => name.startsWith('model.')))
  })()
  pretrained.set(key, made)
  return made
}

/** The run folder of a model, trained once for these options and this library. */
async function runFolder(options: Options): Promise<string> {
  const folder = cacheFile({ options }).replace(/\.json$/, '')
  if (existsSync(path.join(folder, 'report.html'))) return folder
  rmSync(folder, { recursive: true, force: true })
  const quiet = into(() => {})
  const terminal = { stdout: quiet, stderr: quiet, env: {}, onInterrupt: () => () => {}, exit: () => {} }
  const code = await trainCommand({ ...options, evalEvery: options.steps, out: folder }, startTraining, terminal)
  if (code !== 0) throw new Error(`the training ended with ${code}`)
  return folder
}

const into = (take: (text: string) => void) => new Writable({ write: (chunk, _encoding, done) => (take(String(chunk)), done()) })

async function kernelsOf({ train: options, flags }: NonNullable<Card['kernels']>, shared: Options): Promise<KernelsReport> {
  const run = await runFolder({ ...shared, ...options, seed: 1 })
  let text = ''
  await kernelsCommand({ threads: shared.threads, device: shared.device, ...flags, run, json: true }, into((part) => (text += part)))
  return JSON.parse(text) as KernelsReport
}

async function trainOnce({ options, pretrain }: Plan): Promise<RunResult> {
  const { values: config } = resolveTrainConfig({ flags: { ...options, evalEvery: options.steps } })
  const data = await loadTextDataset(config)
  const device = getDevice(config.device)
  const weights = pretrain && (await weightsOf(pretrain))
  const before = (await device.synchronize()).liveBytes
  const run = await startTraining(config, data)
  if (weights) {
    // What the technique adds keeps its first values; everything else must be there.
    const { tensors, state } = await run.trainer.state()
    const missing = Object.keys(weights).filter((name) => !tensors[name])
    if (missing.length) throw new Error(`the model has no ${missing.join(', ')} to take from the trained one`)
    await run.trainer.load({ tensors: { ...tensors, ...weights }, state })
  }
  const times: number[] = []
  let [flops, peakBytes, tokens, loss] = [0, 0, 0, NaN]
  const begin = process.cpuUsage()
  let cpuSeconds = 0
  try {
    for await (const metrics of run.trainer.train()) {
      // The last entry comes after the evaluation, whose time is not the training's.
      if (metrics.valLoss === undefined) {
        const { user, system } = process.cpuUsage(begin)
        cpuSeconds = (user + system) / 1e6
      }
      flops += metrics.flops
      peakBytes = Math.max(peakBytes, metrics.peakBytes - before)
      tokens += metrics.tokens
      times.push(metrics.stepMs)
      loss = metrics.valLoss ?? loss
    }
  } catch (error) {
    if ((error as { code?: string }).code !== 'ERR_NON_FINITE') throw error
    device.clearError()
    loss = Infinity
  } finally {
    await run.dispose?.()
  }
  const { validation, validationTokens, validationBytes } = data
  const bytes = (validationBytes / validationTokens) * validation.targetCount
  return { bitsPerByte: bitsPerByte(loss, validation.targetCount, bytes), flops, cpuSeconds, stepMs: median(times) ?? 0, peakBytes, tokens }
}

/** FLOPs of the whole run; on meta without computing it. */
async function forecast(options: Options, device: 'meta' | 'cpu' = 'meta'): Promise<number> {
  const { values: config } = resolveTrainConfig({ flags: { ...options, device, evalEvery: options.steps, evalTokens: 64 } })
  const run = await startTraining(config, await loadTextDataset(config))
  let flops = 0
  for await (const metrics of run.trainer.train()) flops += metrics.flops
  await run.dispose?.()
  return flops
}

/** The number of steps whose FLOPs come nearest to `budget`; a run's FLOPs need not grow evenly with its steps. */
async function stepsFor(budget: number, options: Options, device?: 'meta' | 'cpu'): Promise<number> {
  let steps = options.steps!
  for (let round = 0; round < 6; ++round) {
    const flops = await forecast({ ...options, steps }, device)
    const next = Math.max(20, Math.round((steps * budget) / flops))
    if (next === steps) break
    steps = next
  }
  return steps
}

/** Best of the rates lr 2^k: from `start` downhill on both sides. */
async function searchRate({ options, pretrain }: Plan, start: number, progress: (text: string) => void) {
  const tried = new Map<number, number>()
  const lossAt = async (k: number) => {
    if (!tried.has(k)) tried.set(k, (await train({ options: { ...options, lr: start * 2 ** k, seed: searchSeed }, pretrain }, progress)).bitsPerByte)
    return tried.get(k)!
  }
  let best = 0
  for (const direction of [1, -1]) {
    while (Math.abs(best + direction) <= 4 && (await lossAt(best + direction)) < (await lossAt(best))) best += direction
  }
  const search = [...tried].sort(([a], [b]) => a - b).map(([k, bits]) => ({ lr: start * 2 ** k, bitsPerByte: bits }))
  return { lr: start * 2 ** best, search }
}

async function measureArm(arm: Arm, { options, pretrain }: Plan, seeds: readonly number[], progress: (text: string) => void): Promise<ArmResult> {
  const { lr, search } = await searchRate({ options, pretrain }, arm.lr, progress)
  const runs = []
  for (const seed of seeds) runs.push(await train({ options: { ...options, lr, seed }, pretrain }, progress))
  return { label: arm.label, options: arm.options, steps: options.steps!, lr, search, runs }
}

export async function measure(card: Card, seeds: number[], progress: (text: string) => void): Promise<Measured> {
  const shared = { ...commonOptions, ...card.options }
  const base = { ...shared, ...card.baseline.options }
  const other = { ...shared, ...card.technique.options }
  if (card.teacher) {
    const folder = await runFolder({ ...shared, ...card.teacher })
    other.technique = other.technique?.map((text) => text.replace('{teacher}', folder))
  }
  if (card.budget === 'flops') other.steps = await stepsFor(await forecast(base), { ...other, lr: card.technique.lr }, card.forecastOn)
  const pretrain = card.pretrain && { ...shared, ...card.pretrain }
  const baseline = await measureArm(card.baseline, { options: base, pretrain }, seeds, progress)
  const technique = await measureArm(card.technique, { options: other, pretrain }, seeds, progress)
  return { seeds, baseline, technique, ...(card.kernels && { kernels: await kernelsOf(card.kernels, shared) }) }
}
