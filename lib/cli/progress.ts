// How a run shows its progress on stderr: one live line on a terminal; else a plain line every ten seconds and at each
// evaluation. With --json and no terminal nothing at all, since stdout tells everything.

import type { Writable } from 'node:stream'

import type { SingleBar } from 'cli-progress'

import { formatBytes, formatCount, formatDuration } from '../train/format'
import type { StepMetrics } from '../train/metrics'

export interface ProgressOptions {
  stream: Writable & { isTTY?: boolean }
  steps: number
  /** Steps that were done before, in a resumed run. */
  firstStep?: number
  /** Measured FLOP/s of the device at the run's precision. */
  peakFlops?: number
  json?: boolean
  env?: NodeJS.ProcessEnv
  now?: () => number
}

const kPlainInterval = 10_000
const kSmoothing = 0.05

export class Progress {
  private bar: SingleBar | undefined
  private readonly live: boolean
  private readonly colour: boolean
  private readonly now: () => number
  private lastPlain: number
  private smoothMs: number | undefined
  private valLoss: number | undefined
  private last: StepMetrics | undefined

  constructor(private readonly options: ProgressOptions) {
    const env = options.env ?? process.env
    this.live = options.stream.isTTY === true && env.TERM !== 'dumb'
    this.colour = this.live && !env.NO_COLOR
    this.now = options.now ?? (() => performance.now())
    this.lastPlain = this.now()
  }

  async start(): Promise<void> {
    if (!this.live) return
    const { SingleBar } = (await import('cli-progress')).default
    this.bar = new SingleBar({
      stream: this.options.stream as never,
      hideCursor: true,
      fps: 10,
      gracefulExit: false, // signals are the command's
      barsize: 20,
      format: (_options, params) => `${this.barOf(params.progress)} ${this.line()}`,
    })
    this.bar.start(this.options.steps, this.options.firstStep ?? 0)
  }

  step(metrics: StepMetrics): void {
    this.last = metrics
    this.smoothMs =
      this.smoothMs === undefined ? metrics.stepMs : this.smoothMs + kSmoothing * (metrics.stepMs - this.smoothMs)
    if (metrics.valLoss !== undefined) this.valLoss = metrics.valLoss
    if (this.bar) {
      this.bar.update(metrics.step)
    } else if (!this.options.json) {
      const due = this.now() - this.lastPlain >= kPlainInterval || metrics.valLoss !== undefined
      if (!due && metrics.step !== this.options.steps) return
      this.lastPlain = this.now()
      this.options.stream.write(`${this.line()}\n`)
    }
  }

  /** A line of its own, which the live line does not overwrite. */
  say(message: string): void {
    if (this.bar) this.options.stream.write('\r\x1b[K')
    this.options.stream.write(`${message}\n`)
  }

  stop(): void {
    this.bar?.stop()
    this.bar = undefined
  }

  /** What is known of the run, in one line. */
  line(): string {
    const { steps, peakFlops } = this.options
    const m = this.last
    if (m === undefined) return `step ${this.options.firstStep ?? 0}/${steps}`
    const parts = [`step ${m.step}/${steps}`, `loss ${m.loss.toFixed(4)}`]
    if (this.valLoss !== undefined) parts.push(`val ${this.valLoss.toFixed(4)}`)
    parts.push(`${formatCount(m.tokensPerSecond)} tok/s`)
    if (peakFlops !== undefined && peakFlops > 0 && m.stepMs > 0) {
      parts.push(`${((100 * m.flops) / (m.stepMs / 1000) / peakFlops).toFixed(0)}% of peak`)
    }
    parts.push(formatBytes(m.peakBytes), `${formatDuration(((steps - m.step) * (this.smoothMs ?? 0)) / 1000)} left`)
    if (m.skipped) parts.push('step skipped')
    return parts.join('  ')
  }

  private barOf(progress: number): string {
    const full = Math.round(20 * Math.min(1, Math.max(0, progress)))
    const bar = '█'.repeat(full) + '░'.repeat(20 - full)
    return this.colour ? `\x1b[36m${bar}\x1b[0m` : bar
  }
}
