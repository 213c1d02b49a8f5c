// Learning rate as a function of the 0-based step. All start with a linear warm-up lr (t + 1) / warmup.
// Sources: cosine, Loshchilov and Hutter, arXiv 1608.03983; inverse square root, Vaswani et al., arXiv 1706.03762; warm-up,
// stable, decay, Hu et al., arXiv 2404.06395, and its shapes, Haegele et al., arXiv 2405.18392.
import { parseEntry, resolveSettings, type Entry } from '../catalog/entry'
import { LeanformerError } from '../native/errors'

export type Schedule = (step: number) => number

export interface ScheduleOptions {
  lr: number
  /** Steps of linear warm-up; default 0. */
  warmup?: number
  /** Steps in all; after them the rate stays at minLr. */
  steps: number
  /** Rate at the end; default 0. */
  minLr?: number
}

function withWarmup({ lr, warmup = 0 }: { lr: number; warmup?: number }, after: Schedule): Schedule {
  if (!(lr >= 0) || !Number.isInteger(warmup) || warmup < 0) {
    throw new LeanformerError('ERR_ARGUMENT', `schedule: lr ${lr} and warmup ${warmup} must not be negative; warmup is whole`)
  }
  return (step) => (step < warmup ? (lr * (step + 1)) / warmup : after(step))
}

/** How far a step is from the end of the warm-up (0) to the last step (1). */
function progress(step: number, { steps, warmup = 0 }: ScheduleOptions): number {
  return Math.min(1, Math.max(0, (step - warmup) / Math.max(1, steps - warmup)))
}

export function constant(options: { lr: number; warmup?: number }): Schedule {
  return withWarmup(options, () => options.lr)
}

/** minLr + (lr - minLr) (1 + cos(pi u)) / 2 with u from 0 to 1. */
export function cosine(options: ScheduleOptions): Schedule {
  const { lr, minLr = 0 } = options
  return withWarmup(options, (step) => minLr + 0.5 * (lr - minLr) * (1 + Math.cos(Math.PI * progress(step, options))))
}

/** A straight line from lr to minLr. */
export function linearDecay(options: ScheduleOptions): Schedule {
  const { lr, minLr = 0 } = options
  return withWarmup(options, (step) => lr + (minLr - lr) * progress(step, options))
}

/** lr sqrt(warmup) / sqrt(t + 1). */
export function inverseSquareRoot(options: { lr: number; warmup: number }): Schedule {
  const { lr, warmup } = options
  return withWarmup(options, (step) => (lr * Math.sqrt(Math.max(1, warmup))) / Math.sqrt(Math.max(step + 1, warmup, 1)))
}

/** The form of "Attention is all you need": scale width^-1/2 min((t + 1)^-1/2, (t + 1) warmup^-3/2). */
export function noam({ width, warmup, scale = 1 }: { width: number; warmup: number; scale?: number }): Schedule {
  return inverseSquareRoot({ lr: (scale * width ** -0.5) / Math.sqrt(Math.max(1, warmup)), warmup })
}

export interface WSDOptions extends ScheduleOptions {
  /** Share of the steps in which the rate falls to minLr, at the end; default 0.2. */
  decay?: number
  /** How it falls with u from 0 to 1: by u, by sqrt(u), or exponentially. Default 'linear'. */
  shape?: 'linear' | 'sqrt' | 'exponential'
}

/**
 * Warm-up, a constant rate, and a decay at the end. Before the decay the rate does not depend on `steps`: a checkpoint of a
 * longer run can branch off into its own decay at any step.
 */
export function wsd(options: WSDOptions): Schedule {
  const { lr, minLr = 0, steps, decay = 0.2, shape = 'linear' } = options
  if (!(decay >= 0 && decay <= 1)) throw new LeanformerError('ERR_ARGUMENT', `schedule: decay must be from 0 to 1, got ${decay}`)
  const start = Math.round(steps * (1 - decay))
  const down = (u: number) => {
    if (shape === 'sqrt') return lr * (1 - Math.sqrt(u)) + minLr * Math.sqrt(u)
    // Halved ten times on the way, then stretched so that it ends at minLr.
    if (shape === 'exponential') return minLr + ((lr - minLr) * (0.5 ** (10 * u) - 0.5 ** 10)) / (1 - 0.5 ** 10)
    return lr * (1 - u) + minLr * u
  }
  return withWarmup(options, (step) => (step < start ? lr : down(Math.min(1, (step - start) / Math.max(1, steps - start)))))
}

/** Schedules by name with their own settings, as the command line has them. */
export const schedules = {
  constant: { settings: {}, make: constant },
  cosine: { settings: {}, make: cosine },
  linear: { settings: {}, make: linearDecay },
  inverse_sqrt: { settings: {}, make: inverseSquareRoot },
  wsd: {
    settings: {
      decay: { default: 0.2, min: 0, max: 1, help: 'share of the steps in which the rate falls' },
      shape: { default: 'linear', choices: ['linear', 'sqrt', 'exponential'], help: 'how it falls' },
    },
    make: wsd,
  },
} as const

/** `cosine` or `wsd:decay=0.1,shape=sqrt` as a schedule. @throws ERR_OPTION */
export function makeSchedule(text: string, options: Required<ScheduleOptions>): Schedule {
  const { name, given } = parseEntry(text)
  if (!Object.hasOwn(schedules, name)) {
    throw new LeanformerError('ERR_OPTION', `--schedule ${name} is not here`, `there are: ${Object.keys(schedules).join(', ')}`)
  }
  const { settings, make } = schedules[name as keyof typeof schedules]
  const entry: Entry = { name, title: name, category: 'optimisation', source: '', settings }
  return (make as (all: object) => Schedule)({ ...options, ...resolveSettings(entry, given) })
}
