// Sequence-length warm-up: windows are cut to a length that grows in a straight line, so that early steps are cheap and calm.
// The rows stay the same, their ends are left out. Source: Li, Zhang and He, arXiv 2108.06084.
import { defineTechnique, type Batch, type TrainingRun } from './technique'

/** Length at a step: from `start` to `whole` within `steps` steps, in multiples of `multiple`. */
export function warmupLength(step: number, options: { start: number; whole: number; steps: number; multiple: number }): number {
  const { start, whole, steps, multiple } = options
  if (step >= steps) return whole
  const length = start + ((whole - start) * step) / steps
  return Math.min(whole, Math.max(multiple, Math.floor(length / multiple) * multiple))
}

/** The first `length` tokens of each row. */
export function cutBatch(batch: Batch, length: number): Batch {
  const { context, batch: rows } = batch
  if (length >= context) return batch
  const cut = (from: Int32Array) => {
    const out = new Int32Array(rows * length)
    for (let r = 0; r < rows; ++r) out.set(from.subarray(r * context, r * context + length), r * length)
    return out
  }
  const targets = cut(batch.targets)
  return {
    ...batch,
    inputs: cut(batch.inputs),
    targets,
    ...(batch.segments ? { segments: cut(batch.segments) } : {}),
    ...(batch.positions ? { positions: cut(batch.positions) } : {}),
    context: length,
    tokens: targets.reduce((n, target) => n + (target >= 0 ? 1 : 0), 0),
  }
}

export const sequenceWarmup = defineTechnique({
  name: 'sequence_warmup',
  title: 'Sequence-length warm-up: short windows first',
  category: 'incremental',
  source: 'Li, Zhang and He, arXiv 2108.06084',
  settings: {
    start: { default: 8, min: 1, integer: true, help: 'length of the first windows, in tokens' },
    share: { default: 0.3, min: 0, max: 1, help: 'share of the steps until windows are whole; 0: at once' },
    multiple: { default: 8, min: 1, integer: true, help: 'lengths are multiples of it' },
  },
  neutral: { settings: { share: 0 } },
  make: ({ start, share, multiple }) => {
    let run: TrainingRun | undefined
    return {
      setup(given) {
        run = given
      },
      batch: (batch, step) =>
        cutBatch(batch, warmupLength(step, { start, whole: batch.context, steps: share * run!.steps, multiple })),
    }
  },
})
