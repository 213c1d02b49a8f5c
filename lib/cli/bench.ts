// `leanformer bench`: times whole training steps of a model given by the options of `train`, on random tokens, and
// shows where the time goes by operator, beside the ceilings of the machine. It writes no files.

import type { Writable } from 'node:stream'

import { EvaluationWindows, TokenWindows, type TextDataset } from '../data/tokens'
import { ByteTokenizer } from '../data/tokenizers/bytes'
import { Permutation } from '../data/permutation'
import { addon } from '../native/binding'
import { getDevice } from '../tensor/device'
import { formatBytes, formatCount, median } from '../train/format'
import type { StepMetrics } from '../train/metrics'
import { readConfigFile, resolveTrainConfig } from './config'
import { operatorRows, operatorTable, type Ceilings } from './operator_table'
import { startTraining } from './training_run'

const kWarmUp = 3

export async function benchCommand(flags: Record<string, unknown>, stdout: Writable = process.stdout): Promise<number> {
  const file = typeof flags.config === 'string' ? await readConfigFile(flags.config) : undefined
  const { values } = resolveTrainConfig({ flags: { steps: 30, warmup: 0, ...flags }, ...(file ? { file } : {}) })
  const { context, batch, seed, steps } = values
  // Off the CPU, timing operators keeps a step from running as one graph: they have steps of their own.
  const device = getDevice(values.device)
  const apart = device.name !== 'cpu'
  const timedFrom = apart ? kWarmUp + steps : kWarmUp
  const all = timedFrom + steps
  const config = { ...values, steps: all, evalEvery: all + 1 }
  const order = new Permutation(2 ** 40, seed)
  const tokens = Uint8Array.from({ length: 20 * context + 1 }, (_, i) => order.at(i) & 255)
  const data: TextDataset = {
    source: 'random bytes',
    tokenizer: new ByteTokenizer(),
    train: new TokenWindows(tokens, { context, batch, seed }),
    validation: new EvaluationWindows(tokens.subarray(0, context + 1), { context, batch: 1 }),
    trainTokens: tokens.length,
    validationTokens: context + 1,
    validationBytes: context + 1,
    sha256: '',
  }
  const run = await startTraining({ ...config, json: false }, data)
  try {
    const measured: StepMetrics[] = []
    const timed: StepMetrics[] = []
    // The trainer is ahead of what it reports: the profile begins when the device has done all of that.
    let since = performance.now()
    let waitedBefore = 0
    for await (const metrics of run.trainer.train()) {
      if (metrics.step === timedFrom) {
        device.timeOperators(apart)
        device.profile(true)
        waitedBefore = device.stats().waitedSeconds
        since = performance.now()
      }
      if (metrics.step > kWarmUp && metrics.step <= kWarmUp + steps) measured.push(metrics)
      if (metrics.step > timedFrom) timed.push(metrics)
    }
    const profile = device.profile()
    const profiledMs = performance.now() - since
    const waitedMs = 1000 * (device.stats().waitedSeconds - waitedBefore)
    device.timeOperators(false)
    const stepMs = median(measured.map((m) => m.stepMs))
    const { tokens: perStep, flops, peakBytes } = measured.at(-1)!
    const gflops = flops / stepMs / 1e6
    const meanMs = timed.reduce((sum, m) => sum + m.stepMs, 0) / timed.length
    const ceilings: Ceilings | undefined =
      run.peakFlops === undefined ? undefined : { gflops: run.peakFlops / 1e9, gbs: addon.measurePeaks().bandwidthGbs }
    const operators = operatorRows(profile, profiledMs / meanMs, ceilings)
    const result = {
      step_ms_median: stepMs,
      tokens_per_second: (1000 * perStep) / stepMs,
      gflops,
      share_of_peak: run.peakFlops === undefined ? null : (1e9 * gflops) / run.peakFlops,
      peak_bytes: peakBytes,
      waited_ms: (waitedMs * meanMs) / profiledMs,
      operators: operators.map(({ op, calls, ms, gflops: rate, gbs }) => ({
        op,
        calls_per_step: calls,
        ms_per_step: ms,
        gflops: rate,
        gbs,
      })),
    }
    if (values.json) {
      stdout.write(`${JSON.stringify(result)}\n`)
      return 0
    }
    const share =
      result.share_of_peak === null ? '' : `, ${(100 * result.share_of_peak).toFixed(0)} % of the measured peak`
    stdout.write(
      `${stepMs.toFixed(2)} ms a step (median of ${steps}), ${formatCount(result.tokens_per_second)} tokens/s, ` +
        `${gflops.toFixed(1)} GFLOP/s${share}, ${formatBytes(peakBytes)}\n`,
    )
    if (apart) stdout.write(`${meanMs.toFixed(2)} ms a step while operators are timed one by one:\n`)
    stdout.write(operatorTable(operators, meanMs, result.waited_ms))
    return 0
  } finally {
    await run.dispose?.()
  }
}
