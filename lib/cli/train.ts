// `leanformer train`: reads the options and the text, trains, saves, and reports. ^C ends at a step boundary, saves and
// exits with 130; a second ^C exits at once. With --json stdout has one JSON object a step and a last one, nothing
// else.

import { join } from 'node:path'
import type { Writable } from 'node:stream'

import { loadTextDataset, type TextDataset } from '../data/tokens'
import { LeanformerError } from '../native/errors'
import type { Structure } from '../train/compressed'
import { loadCheckpoint, saveCheckpoint, type Checkpoint } from '../train/checkpoint_file'
import { formatBytes, formatCount, median } from '../train/format'
import { bitsPerByte, stepRecord, type DoneRecord, type StepMetrics } from '../train/metrics'
import { writeReport } from '../train/report'
import { RunFolder, type RunConfig } from '../train/run_folder'
import { readConfigFile, resolveTrainConfig, trainSchema, type ResolvedTrainConfig, type TrainConfig } from './config'
import { describeOptions } from './options'
import { Progress } from './progress'

/** The part of the trainer that a run needs. */
export interface TrainerLike {
  /** Sentences for the end of the run. */
  summary?(): Promise<string[]>
  /** Steps whose work is enqueued, which may be ahead of the last one that was reported. */
  readonly step: number
  train(options?: { signal?: AbortSignal }): AsyncGenerator<StepMetrics>
  evaluate(): Promise<{ loss: number; tokens: number }>
  state(): Promise<Checkpoint>
  load(checkpoint: Checkpoint): void | Promise<void>
}

/** A trainer that is ready for its first step, and what is shown of it. */
export interface TrainingRun {
  trainer: TrainerLike
  /** The device that `auto` became. */
  device: string
  parameters: number
  /** The loss is that of masked tokens, which says nothing of bits per byte. */
  masked?: boolean
  /** Of a model that started from one that was made smaller. */
  structure?: Structure
  /** Measured FLOP/s of the device at the run's precision, if known. */
  peakFlops?: number
  dispose?(): void | Promise<void>
}

export type TrainingFactory = (config: TrainConfig, data: TextDataset) => Promise<TrainingRun>

/** Where a command reads signals and writes; tests bring their own. */
export interface Terminal {
  stdout: Writable
  stderr: Writable & { isTTY?: boolean }
  env: NodeJS.ProcessEnv
  /** Calls `handler` at ^C or a request to end; returns how to stop listening. */
  onInterrupt(handler: (signal: 'SIGINT' | 'SIGTERM') => void): () => void
  exit(code: number): void
}

export const processTerminal: Terminal = {
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  onInterrupt(handler) {
    const signals = ['SIGINT', 'SIGTERM'] as const
    for (const signal of signals) process.on(signal, handler)
    // Whoever read our output has gone, as after `| head`: that ends the run, and it is saved.
    let gone = false
    const onError = (error: NodeJS.ErrnoException): void => {
      if (error.code !== 'EPIPE') throw error
      if (!gone) handler('SIGTERM')
      gone = true
    }
    process.stdout.on('error', onError)
    return () => signals.forEach((signal) => process.off(signal, handler))
  },
  exit: (code) => process.exit(code),
}

/** What was asked for, after flags, file and the resumed run are put together. */
async function readOptions(
  flags: Record<string, unknown>,
): Promise<{ resolved: ResolvedTrainConfig; resumed?: RunFolder }> {
  const file = typeof flags.config === 'string' ? await readConfigFile(flags.config) : undefined
  const resumed = typeof flags.resume === 'string' ? await RunFolder.open(flags.resume) : undefined
  if (resumed?.config.compressed) {
    throw new LeanformerError('ERR_OPTION', `--resume ${resumed.path}: it holds a model that was made smaller, not a training`, `start a new run with --from ${resumed.path}`)
  }
  const resolved = resolveTrainConfig({
    flags,
    ...(file ? { file } : {}),
    ...(resumed ? { run: { name: resumed.path, values: resumed.config.values } } : {}),
  })
  return { resolved, ...(resumed ? { resumed } : {}) }
}

function runConfig({ values, origins }: ResolvedTrainConfig, { sha256 }: TextDataset, { structure }: TrainingRun): RunConfig {
  const kept = describeOptions(trainSchema)
    .filter(({ flagOnly }) => !flagOnly)
    .map(({ key }) => key)
  const pick = <T>(from: Record<string, T>) =>
    Object.fromEntries(kept.map((key) => [key, from[key]])) as Record<string, T>
  return { values: pick(values as Record<string, unknown>), origins: pick(origins), textSha256: sha256, ...(structure ? { structure } : {}) }
}

/** Other data would make another run, and nothing would show it. */
function checkSameText(resumed: RunFolder, { source, sha256 }: TextDataset): void {
  if (resumed.config.textSha256 === sha256) return
  throw new LeanformerError(
    'ERR_DATA',
    `--resume ${resumed.path}: the text ${source} has changed since that run began`,
    'bring the old text back, or start a new run without --resume',
  )
}

/** Runs the command and returns the exit code. */
export async function trainCommand(
  flags: Record<string, unknown>,
  factory: TrainingFactory,
  terminal: Terminal = processTerminal,
): Promise<number> {
  const { resolved, resumed } = await readOptions(flags)
  const config = resolved.values
  const data = await loadTextDataset({
    ...config,
    tokenizer: resumed?.tokenizer ?? config.tokenizer,
  })
  if (resumed) checkSameText(resumed, data)
  const run = await factory(config, data)
  try {
    const folder = resumed
      ? await resumed.updateConfig(runConfig(resolved, data, run))
      : await RunFolder.create(config.out, runConfig(resolved, data, run), data.tokenizer)
    try {
      return await new Session(config, resolved, data, run, folder, terminal).run(resumed !== undefined)
    } finally {
      folder.close()
    }
  } finally {
    await run.dispose?.()
  }
}

class Session {
  private readonly progress: Progress
  private readonly abort = new AbortController()
  private readonly stepMs: number[] = []
  private readonly rates: number[] = []
  private interruptedBy: 'SIGINT' | 'SIGTERM' | undefined
  private last: StepMetrics | undefined
  private valLoss: number | undefined
  private checkpoint = ''
  private savedStep = -1
  /** A state that was read while its last step was not yet logged. */
  private waiting: { step: number; content: Checkpoint } | undefined

  constructor(
    private readonly config: TrainConfig,
    private readonly resolved: ResolvedTrainConfig,
    private readonly data: TextDataset,
    private readonly training: TrainingRun,
    private readonly folder: RunFolder,
    private readonly terminal: Terminal,
  ) {
    this.progress = new Progress({
      stream: terminal.stderr,
      steps: config.steps,
      json: config.json,
      env: terminal.env,
      ...(training.peakFlops === undefined ? {} : { peakFlops: training.peakFlops }),
    })
  }

  async run(resumes: boolean): Promise<number> {
    const stopListening = this.terminal.onInterrupt((signal) => {
      if (this.interruptedBy) {
        this.progress.stop()
        return this.terminal.exit(130)
      }
      this.interruptedBy = signal
      this.progress.say(`${signal}: saving after this step; again to exit at once`)
      this.abort.abort()
    })
    try {
      this.announce()
      if (resumes) await this.resume()
      await this.progress.start()
      await this.train()
      return this.interruptedBy ? await this.interrupted(this.interruptedBy) : await this.finish()
    } catch (error) {
      this.progress.stop()
      // What was logged so far is worth seeing; the error itself matters more than a report that fails.
      await this.report().catch(() => {})
      throw error
    } finally {
      stopListening()
      this.progress.stop()
    }
  }

  private announce(): void {
    if (this.config.json) return
    const { data, training, config } = this
    const count = formatCount
    const rows = [
      `text       ${data.source}: ${count(data.trainTokens)} training, ${count(data.validationTokens)} validation`,
      `model      ${config.model}, ${count(training.parameters)} parameters`,
      `device     ${training.device}, ${config.precision}`,
      `run folder ${this.folder.path}`,
    ]
    const given = describeOptions(trainSchema)
      .filter(({ key }) => this.resolved.origins[key] !== 'default')
      .map(
        ({ key, flag }) =>
          `${flag} ${String((config as Record<string, unknown>)[key])} (${this.resolved.origins[key]})`,
      )
    if (given.length > 0) rows.push(`options    ${given.join(', ')}`)
    for (const row of rows) this.progress.say(row)
  }

  private async resume(): Promise<void> {
    const { trainer } = this.training
    const { tensors, state, step, path } = await loadCheckpoint(this.folder.checkpoints, {
      onWarning: (message) => this.progress.say(`warning: ${message}`),
    })
    await trainer.load({ tensors, state })
    await this.folder.rewindMetrics(step)
    this.checkpoint = path
    this.savedStep = step
    this.progress.say(`resumed    ${path}`)
  }

  private async train(): Promise<void> {
    const { trainer } = this.training
    const { saveEvery, steps } = this.config
    try {
      for await (const metrics of trainer.train({ signal: this.abort.signal })) {
        this.log(metrics)
        await this.saveWaiting(metrics.step)
        // The last step is saved by `finish`, an interrupted one by `interrupted`.
        if (metrics.step % saveEvery === 0 && metrics.step < steps && !this.abort.signal.aborted)
          await this.save(metrics.step)
      }
    } catch (error) {
      if (!this.abort.signal.aborted || !isAbort(error, this.abort.signal)) throw error
    }
  }

  private log(metrics: StepMetrics): void {
    this.last = metrics
    this.stepMs.push(metrics.stepMs)
    this.rates.push(metrics.tokensPerSecond)
    if (metrics.valLoss !== undefined) this.valLoss = metrics.valLoss
    const record = stepRecord(metrics)
    this.folder.appendMetrics(record)
    if (this.config.json) this.terminal.stdout.write(`${JSON.stringify(record)}\n`)
    this.progress.step(metrics)
  }

  /** Saves the state as of now. When that is ahead of the log, it is written once the log has caught up. */
  private async save(logged: number): Promise<void> {
    const step = this.training.trainer.step
    if (step === this.savedStep) return
    const content = await this.training.trainer.state()
    this.waiting = { step, content }
    await this.saveWaiting(logged)
  }

  private async saveWaiting(logged: number): Promise<void> {
    if (!this.waiting || this.waiting.step > logged) return
    const { step, content } = this.waiting
    this.waiting = undefined
    this.checkpoint = await saveCheckpoint(this.folder.checkpoints, step, content)
    this.savedStep = step
  }

  private async interrupted(signal: 'SIGINT' | 'SIGTERM'): Promise<number> {
    await this.save(Infinity)
    await this.report()
    this.progress.stop()
    this.progress.say(`stopped after step ${this.savedStep}; checkpoint ${this.checkpoint}`)
    this.progress.say(`go on with: leanformer train --resume ${this.folder.path}`)
    return signal === 'SIGINT' ? 130 : 143
  }

  private async finish(): Promise<number> {
    await this.save(Infinity)
    const valLoss = this.last?.step === this.config.steps ? this.last.valLoss : undefined
    this.valLoss = valLoss ?? (await this.training.trainer.evaluate()).loss
    const { validationTokens, validationBytes } = this.data
    const orNull = (value: number | undefined) => (value === undefined || Number.isNaN(value) ? null : value)
    const done: DoneRecord = {
      event: 'done',
      train_loss: orNull(this.last?.loss),
      val_loss: this.valLoss,
      val_bits_per_byte: this.training.masked ? null : bitsPerByte(this.valLoss, validationTokens, validationBytes),
      tokens_per_second: orNull(median(this.rates)),
      step_ms_median: orNull(median(this.stepMs)),
      peak_bytes: orNull(this.last?.peakBytes),
      checkpoint: this.checkpoint,
    }
    await this.report(done)
    this.progress.stop()
    if (this.config.json) {
      this.terminal.stdout.write(`${JSON.stringify(done)}\n`)
    } else {
      const summary = (await this.training.trainer.summary?.()) ?? []
      const number = (value: number | null, digits: number) => (value === null ? '-' : value.toFixed(digits))
      this.terminal.stdout.write(
        [
          `training loss    ${number(done.train_loss, 4)}`,
          `validation loss  ${number(done.val_loss, 4)}, ${this.training.masked ? 'of masked tokens' : `${number(done.val_bits_per_byte, 4)} bits per byte`}`,
          `speed            ${number(done.tokens_per_second, 0)} tokens/s, ${number(done.step_ms_median, 2)} ms a step`,
          `tensor memory    ${done.peak_bytes === null ? '-' : formatBytes(done.peak_bytes)} at most`,
          `checkpoint       ${done.checkpoint}`,
          `report           ${this.folder.report}`,
          ...summary,
          '',
        ].join('\n'),
      )
    }
    return 0
  }

  private async report(done?: DoneRecord): Promise<void> {
    const { values, origins } = runConfig(this.resolved, this.data, this.training)
    await writeReport(this.folder.report, {
      title: `${this.config.model} on ${this.data.source}`,
      config: Object.keys(values).map((key) => ({ key, value: values[key], origin: origins[key] ?? 'default' })),
      metrics: await this.folder.readMetrics(),
      facts: { parameters: this.training.parameters.toLocaleString('en'), device: this.training.device },
      ...(done ? { done } : {}),
    })
  }
}

function isAbort(error: unknown, signal: AbortSignal): boolean {
  if (error === signal.reason) return true
  return error instanceof LeanformerError
    ? error.code === 'ERR_ABORTED'
    : (error as Error | null)?.name === 'AbortError'
}

/** The newest sound checkpoint of a run folder, with what is needed to rebuild its model. */
export async function openRun(path: string, onWarning?: (message: string) => void) {
  const folder = await RunFolder.open(path)
  const checkpoint = await loadCheckpoint(join(path, 'checkpoints'), onWarning ? { onWarning } : {})
  const { values } = resolveTrainConfig({ flags: {}, run: { name: path, values: folder.config.values } })
  return { folder, checkpoint, config: values, tokenizer: folder.tokenizer }
}
