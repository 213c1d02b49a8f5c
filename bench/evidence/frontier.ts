// The frontier as SVG: validation bits per byte against training FLOPs of every arm of every card that trains from scratch, and
// the line of those that no other beats in both.
import type { ArmSummary, CardRecord } from './record'

const width = 860
const height = 470
const margin = { left: 64, right: 24, top: 24, bottom: 48 }

interface Point {
  label: string
  flops: number
  bits: number
  baseline: boolean
}

const escape = (text: string) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')

function points(records: readonly CardRecord[]): Point[] {
  const byKey = new Map<string, Point>()
  const add = (arm: ArmSummary, label: string, baseline: boolean) => {
    if (!Number.isFinite(arm.bitsPerByte.mean) || arm.bitsPerByte.mean === null) return
    const key = `${arm.flops} ${arm.bitsPerByte.mean}`
    if (!byKey.has(key)) byKey.set(key, { label, flops: arm.flops, bits: arm.bitsPerByte.mean, baseline })
  }
  for (const { baseline, technique, pretrainFlags } of records) {
    if (pretrainFlags) continue // another text, and FLOPs that were spent before
    add(baseline, baseline.label, true)
    add(technique, technique.label, false)
  }
  return [...byKey.values()]
}

// Equal budgets are equal to a whole number of steps.
const sameFlops = 1.03

/** Points that no other beats in loss with as many FLOPs or fewer, from few FLOPs to many. */
export function undominated<T extends { flops: number; bits: number }>(all: readonly T[]): T[] {
  const best = all.filter((point) => all.every((other) => other.flops > point.flops * sameFlops || other.bits >= point.bits))
  return best.sort((a, b) => a.flops - b.flops)
}

export function frontierSvg(records: readonly CardRecord[]): string {
  const all = points(records)
  const flops = all.map((point) => Math.log10(point.flops))
  const bits = all.map((point) => point.bits)
  const range = (values: number[], pad: number): [number, number] => {
    const [low, high] = [Math.min(...values), Math.max(...values)]
    const extra = Math.max(high - low, 0.05) * pad
    return [low - extra, high + extra]
  }
  const [x0, x1] = range(flops, 0.06)
  // What diverged or nearly did would press everything else together.
  const shown = [...bits].sort((a, b) => a - b).slice(0, Math.max(1, Math.ceil(bits.length * 0.95)))
  const [y0, y1] = range(shown, 0.08)
  const x = (value: number) => margin.left + ((Math.log10(value) - x0) / (x1 - x0)) * (width - margin.left - margin.right)
  const y = (value: number) => height - margin.bottom - ((Math.min(value, y1) - y0) / (y1 - y0)) * (height - margin.top - margin.bottom)
  const best = undominated(all)
  const text = (px: number, py: number, content: string, more = '') => `<text x="${px.toFixed(1)}" y="${py.toFixed(1)}" ${more}>${escape(content)}</text>`
  const parts: string[] = []
  for (let i = 0; i <= 5; ++i) {
    const value = y0 + ((y1 - y0) * i) / 5
    parts.push(`<line x1="${margin.left}" x2="${width - margin.right}" y1="${y(value).toFixed(1)}" y2="${y(value).toFixed(1)}" stroke="#8884"/>`)
    parts.push(text(margin.left - 8, y(value) + 4, value.toFixed(2), 'text-anchor="end"'))
  }
  for (const unit of [1, 2, 5].flatMap((m) => [10, 11, 12, 13].map((e) => m * 10 ** e))) {
    if (Math.log10(unit) < x0 || Math.log10(unit) > x1) continue
    parts.push(`<line x1="${x(unit).toFixed(1)}" x2="${x(unit).toFixed(1)}" y1="${margin.top}" y2="${height - margin.bottom}" stroke="#8884"/>`)
    parts.push(text(x(unit), height - margin.bottom + 18, unit.toExponential(0).replace('e+', 'e'), 'text-anchor="middle"'))
  }
  parts.push(text(width / 2, height - 10, 'training FLOPs', 'text-anchor="middle"'))
  parts.push(text(16, height / 2, 'validation bits per byte', `text-anchor="middle" transform="rotate(-90 16 ${height / 2})"`))
  parts.push(`<polyline fill="none" stroke="#c2410c" stroke-width="2" points="${best.map((p) => `${x(p.flops).toFixed(1)},${y(p.bits).toFixed(1)}`).join(' ')}"/>`)
  for (const point of all) {
    const color = best.includes(point) ? '#c2410c' : point.baseline ? '#1d4ed8' : '#6b7280'
    parts.push(`<circle cx="${x(point.flops).toFixed(1)}" cy="${y(point.bits).toFixed(1)}" r="${best.includes(point) ? 5 : 3.5}" fill="${color}"><title>${escape(`${point.label}: ${point.bits.toFixed(4)}`)}</title></circle>`)
  }
  let last = -Infinity
  for (const point of best) {
    const right = x(point.flops) > width - 260
    const py = Math.max(y(point.bits) + 16, last + 14)
    last = py
    parts.push(text(x(point.flops) + (right ? -8 : 8), py, point.label, `fill="#c2410c" text-anchor="${right ? 'end' : 'start'}"`))
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12" fill="#6b7280">`,
    '<title>Loss against training FLOPs; the line joins what nothing else beats in both</title>',
    ...parts,
    '</svg>',
    '',
  ].join('\n')
}
