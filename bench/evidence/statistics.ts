// Student's t: mean of a few numbers with its 95 % interval, and the verdict that paired differences support.

// 0.975 quantiles for 1 to 30 degrees of freedom.
const t975 = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11, 2.101,
  2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042,
]

export interface Interval {
  mean: number
  low: number
  high: number
}

/** Mean and 95 % t-interval; at least two numbers. */
export function interval(values: readonly number[]): Interval {
  const n = values.length
  if (n < 2) throw new Error(`an interval needs two numbers or more, not ${n}`)
  const mean = values.reduce((a, b) => a + b, 0) / n
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1)
  const half = t975[Math.min(n - 2, t975.length - 1)] * Math.sqrt(variance / n)
  return { mean, low: mean - half, high: mean + half }
}

export type Verdict = 'better' | 'equal' | 'worse' | 'not shown'

/**
 * What the interval of (technique - baseline), lower being better, supports. Equal: all of it is nearer to 0 than `margin`
 * and it holds 0.
 */
export function lossVerdict({ low, high }: Interval, margin: number): Verdict {
  if (high < 0) return 'better'
  if (low > 0) return 'worse'
  return Math.max(-low, high) <= margin ? 'equal' : 'not shown'
}

/**
 * For a technique that saves a cost: better when the cost falls by 2 % or more and the loss does not rise beyond `margin`;
 * worse when the loss does, or the cost rises.
 */
export function costVerdict(loss: Interval, margin: number, ratio: Interval): Verdict {
  if (loss.low > margin || ratio.low > 1.02) return 'worse'
  if (loss.high > margin) return 'not shown'
  if (ratio.high < 0.98) return 'better'
  return Math.max(ratio.high, 1 / ratio.low) <= 1.02 ? 'equal' : 'not shown'
}
