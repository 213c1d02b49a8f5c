// Where the time of training steps goes: an operator's seconds beside what the machine's ceilings would allow,
//   ideal = max(FLOPs / peak FLOP/s, bytes / memory bandwidth),
// with FLOPs and bytes from the operators' own cost rules. What lies in the caches may be faster than that.
import type { OpProfile } from '../tensor/device'

export interface Ceilings {
  gflops: number
  /** Memory bandwidth, GB/s. */
  gbs: number
}

export interface OperatorRow {
  op: string
  /** All per step. */
  calls: number
  ms: number
  gflops: number
  gbs: number
  /** ideal / measured; null without ceilings. */
  ceiling: number | null
  /** Milliseconds above the ideal; null without ceilings. */
  lostMs: number | null
}

/** One row an operator that ran, the longest first. */
export function operatorRows(profile: readonly OpProfile[], steps: number, ceilings?: Ceilings): OperatorRow[] {
  return profile
    .filter(({ calls }) => calls > 0)
    .map(({ op, calls, seconds, flops, bytesRead, bytesWritten }) => {
      const bytes = bytesRead + bytesWritten
      const ideal = ceilings && Math.max(flops / ceilings.gflops, bytes / ceilings.gbs) / 1e9
      return {
        op,
        calls: calls / steps,
        ms: (1000 * seconds) / steps,
        gflops: seconds > 0 ? flops / seconds / 1e9 : 0,
        gbs: seconds > 0 ? bytes / seconds / 1e9 : 0,
        ceiling: ideal === undefined ? null : seconds > 0 ? ideal / seconds : 0,
        lostMs: ideal === undefined ? null : (1000 * (seconds - ideal)) / steps,
      }
    })
    .sort((a, b) => b.ms - a.ms)
}

/**
 * The rows as text: the share of the step's wall time that they explain, how much of it the device had nothing to do, as
 * JavaScript was not yet there with the next operator, and the rows that lose the most time.
 */
export function operatorTable(rows: readonly OperatorRow[], stepMs: number, waitedMs: number): string {
  const number = (value: number | null, width: number, digits: number) => (value === null ? '-' : value.toFixed(digits)).padStart(width)
  const lines = [`${'operator'.padEnd(28)}${'calls'.padStart(8)}${'ms'.padStart(11)}${'share'.padStart(8)}${'GFLOP/s'.padStart(10)}${'GB/s'.padStart(8)}${'ceiling'.padStart(9)}`]
  for (const { op, calls, ms, gflops, gbs, ceiling } of rows) {
    const shares = `${number((100 * ms) / stepMs, 6, 1)} %`
    lines.push(
      `${op.padEnd(28)}${number(calls, 8, 1)}${number(ms, 11, 3)}${shares}${number(gflops, 10, 1)}${number(gbs, 8, 1)}` +
        `${number(ceiling === null ? null : 100 * ceiling, 7, 0)} %`,
    )
  }
  const named = rows.reduce((sum, { ms }) => sum + ms, 0)
  const share = (ms: number) => `${((100 * ms) / stepMs).toFixed(1)} %`
  lines.push(`named operators explain ${share(named)} of the wall time, waiting for JavaScript ${share(waitedMs)}`)
  const worst = rows.filter(({ lostMs }) => lostMs !== null && lostMs > 0).sort((a, b) => b.lostMs! - a.lostMs!)
  if (worst.length) {
    const text = worst.slice(0, 10).map(({ op, lostMs }) => `${op} ${lostMs!.toFixed(2)} ms`)
    lines.push(`above the ceilings' time, worst first: ${text.join(', ')}`)
  }
  return `${lines.join('\n')}\n`
}
