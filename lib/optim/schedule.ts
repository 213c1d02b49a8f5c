// Learning rate as a function of the 0-based step. All start with a linear warm-up lr (t + 1) / warmup.
// Sources: cosine, Loshchilov and Hutter, arXiv 1608.03983; inverse square root, Vaswani et al., arXiv 1706.03762.
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
