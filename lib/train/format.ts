// Numbers for people: 1.5 GiB, 12.3k, 4m 05s.

const { floor, log10, max, min, round } = Math

export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${units[unit]}`
}

/** Three significant digits with k, M, G, T. */
export function formatCount(value: number): string {
  if (!Number.isFinite(value)) return String(value)
  const power = value < 1000 ? 0 : min(4, floor(log10(value) / 3))
  if (power === 0) return value >= 100 || Number.isInteger(value) ? String(round(value)) : value.toPrecision(3)
  const scaled = value / 1000 ** power
  return `${scaled.toFixed(max(0, 2 - floor(log10(scaled))))}${['', 'k', 'M', 'G', 'T'][power]}`
}

export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?'
  const whole = max(0, round(seconds))
  const two = (n: number) => String(n).padStart(2, '0')
  if (whole < 60) return `${whole}s`
  if (whole < 3600) return `${floor(whole / 60)}m ${two(whole % 60)}s`
  return `${floor(whole / 3600)}h ${two(floor((whole % 3600) / 60))}m`
}

export function median(values: readonly number[]): number {
  if (values.length === 0) return NaN
  const sorted = Float64Array.from(values).sort()
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}
