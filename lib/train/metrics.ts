// What a training step reports, and the form in which it is written: one JSON object a line, snake_case.

export interface StepMetrics {
  /** Counted from 1: steps that are done. */
  step: number
  /** Mean over the step's targets, in nats. */
  loss: number
  lr: number
  gradNorm: number
  /** Targets of the step. */
  tokens: number
  tokensPerSecond: number
  stepMs: number
  flops: number
  liveBytes: number
  peakBytes: number
  watts?: number
  joules?: number
  /** The update was left out: the gradient was not finite. */
  skipped?: boolean
  valLoss?: number
}

export interface StepRecord {
  event: 'step'
  step: number
  loss: number
  lr: number
  grad_norm: number
  tokens: number
  tokens_per_second: number
  step_ms: number
  flops: number
  live_bytes: number
  peak_bytes: number
  watts?: number
  joules?: number
  skipped?: boolean
  val_loss?: number
}

export interface DoneRecord {
  event: 'done'
  train_loss: number | null
  val_loss: number
  /** null where the loss is not that of every next token. */
  val_bits_per_byte: number | null
  tokens_per_second: number | null
  step_ms_median: number | null
  peak_bytes: number | null
  checkpoint: string
}

export function stepRecord(m: StepMetrics): StepRecord {
  return {
    event: 'step',
    step: m.step,
    loss: m.loss,
    lr: m.lr,
    grad_norm: m.gradNorm,
    tokens: m.tokens,
    tokens_per_second: m.tokensPerSecond,
    step_ms: m.stepMs,
    flops: m.flops,
    live_bytes: m.liveBytes,
    peak_bytes: m.peakBytes,
    ...(m.watts === undefined ? {} : { watts: m.watts, joules: m.joules }),
    ...(m.skipped ? { skipped: true } : {}),
    ...(m.valLoss === undefined ? {} : { val_loss: m.valLoss }),
  }
}

/** Validation loss in nats per token, as bits per byte of the text. */
export function bitsPerByte(loss: number, tokens: number, bytes: number): number {
  return ((loss / Math.LN2) * tokens) / bytes
}
