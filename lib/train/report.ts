// report.html of a run: loss, learning rate and throughput curves, the config, the final numbers. One file with
// everything in it (the chart library is copied in), so that it opens from file:// and can be mailed.

import { readFile, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'

import { LeanformerError } from '../native/errors'
import type { DoneRecord, StepRecord } from './metrics'

export interface ReportContent {
  title: string
  /** Value and origin of each option. */
  config: readonly { key: string; value: unknown; origin: string }[]
  metrics: readonly StepRecord[]
  /** Final numbers; absent while the run is not finished. */
  done?: DoneRecord
  /** Other facts to show, such as the number of parameters. */
  facts?: Readonly<Record<string, string>>
}

/** Points drawn per curve; longer runs are averaged in groups of equal size. */
const kMaxPoints = 4000

interface Series {
  step: number[]
  loss: (number | null)[]
  val: (number | null)[]
  lr: number[]
  rate: number[]
  norm: (number | null)[]
}

const finite = (value: number | null | undefined): number | null => (Number.isFinite(value) ? value! : null)

function mean(values: readonly (number | null)[]): number | null {
  const known = values.filter((v) => v !== null)
  return known.length === 0 ? null : known.reduce((a, b) => a + b, 0) / known.length
}

/** The curves, with at most `kMaxPoints` points. */
export function reportSeries(metrics: readonly StepRecord[]): { series: Series; group: number } {
  const group = Math.max(1, Math.ceil(metrics.length / kMaxPoints))
  const series: Series = { step: [], loss: [], val: [], lr: [], rate: [], norm: [] }
  for (let at = 0; at < metrics.length; at += group) {
    const part = metrics.slice(at, at + group)
    const last = part.at(-1)!
    series.step.push(last.step)
    series.loss.push(mean(part.map((m) => finite(m.loss))))
    series.val.push(finite(part.findLast((m) => m.val_loss !== undefined)?.val_loss))
    series.lr.push(last.lr)
    series.rate.push(mean(part.map((m) => finite(m.tokens_per_second))) ?? 0)
    series.norm.push(mean(part.map((m) => finite(m.grad_norm))))
  }
  return { series, group }
}

const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`)

/** JSON that may stand inside a script element. */
const scriptJson = (value: unknown): string =>
  JSON.stringify(value).replace(/[<>\u2028\u2029]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)

async function chartLibrary(): Promise<{ script: string; style: string }> {
  const require = createRequire(import.meta.url)
  const read = (file: string) => readFile(require.resolve(`uplot/dist/${file}`), 'utf8')
  const [script, style] = await Promise.all([read('uPlot.iife.min.js'), read('uPlot.min.css')])
  return { script: script.replaceAll('</script', '<\\/script'), style }
}

const kStyle = `
:root { color-scheme: light dark }
:root { --text: #1b1f24; --faint: #667; --line: #d8dde3; --back: #fff; --a: #2563eb; --b: #d9480f }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7eb; --faint: #9aa4b0; --line: #343b44; --back: #14171b; --a: #6ea8fe; --b: #ff922b }
}
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back) }
h1 { font-size: 1.4rem } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem } .faint { color: var(--faint) }
.numbers { display: flex; flex-wrap: wrap; gap: .5rem 2rem; padding: 0; list-style: none }
.numbers b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums }
.chart { width: 100%; overflow: hidden } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { text-align: left; padding: .15rem 1.5rem .15rem 0; border-bottom: 1px solid var(--line) }
td.default { color: var(--faint) }
`

/** Runs in the page; the data is in the element #data. */
const kScript = `
const { series: s, group } = JSON.parse(document.getElementById('data').textContent)
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()
const charts = []
function tickText(t) {
  if (t === null) return ''
  const notation = Math.abs(t) >= 1e5 || (t !== 0 && Math.abs(t) < 1e-3) ? 'scientific' : 'standard'
  return Number(t.toPrecision(6)).toLocaleString('en', { notation, maximumFractionDigits: 4 })
}
function draw(id, lines, scale) {
  const box = document.getElementById(id)
  const line = { stroke: css('--line'), width: 1 }
  const axis = { stroke: css('--faint'), grid: line, ticks: line }
  const seriesOf = ({ color, data, ...l }) => ({ width: 1.5, stroke: css(color), spanGaps: true, ...l })
  const chart = new uPlot({
    width: box.clientWidth, height: 260, cursor: { sync: { key: 'run' } },
    scales: { x: { time: false }, y: scale || {} },
    axes: [axis, { ...axis, size: 70, values: (u, ticks) => ticks.map(tickText) }],
    series: [{ label: 'step' }, ...lines.map(seriesOf)],
  }, [s.step, ...lines.map((l) => l.data)], box)
  charts.push([chart, box])
}
const dots = { show: true, size: 6 }
draw('loss', [
  { label: 'training', data: s.loss, color: '--a' },
  { label: 'validation', data: s.val, color: '--b', points: dots },
])
draw('lr', [{ label: 'learning rate', data: s.lr, color: '--a' }])
draw('rate', [{ label: 'tokens/s', data: s.rate, color: '--a' }], { range: (u, min, max) => [0, max * 1.1 || 1] })
draw('norm', [{ label: 'gradient norm', data: s.norm, color: '--a' }])
addEventListener('resize', () => charts.forEach(([c, box]) => c.setSize({ width: box.clientWidth, height: 260 })))
`

function finalNumbers(content: ReportContent): [string, string][] {
  const { done, metrics, facts = {} } = content
  const last = metrics.at(-1)
  const number = (value: number | null | undefined, digits = 4) =>
    value === null || value === undefined
      ? '–'
      : Number(value.toFixed(digits)).toLocaleString('en', { maximumFractionDigits: digits })
  const rows: [string, string][] = [
    ['steps', number(last?.step ?? 0, 0)],
    ['training loss', number(done?.train_loss ?? last?.loss)],
  ]
  if (done) {
    rows.push(['validation loss', number(done.val_loss)], ['validation bits per byte', number(done.val_bits_per_byte)])
    rows.push(
      ['tokens per second', number(done.tokens_per_second, 0)],
      ['ms per step, median', number(done.step_ms_median, 2)],
    )
    rows.push(['peak tensor memory, MiB', number(done.peak_bytes === null ? null : done.peak_bytes / 2 ** 20, 1)])
  }
  return [...rows, ...Object.entries(facts)]
}

export async function reportHtml(content: ReportContent): Promise<string> {
  const { script, style } = await chartLibrary()
  const { series, group } = reportSeries(content.metrics)
  const show = (value: unknown) =>
    escapeHtml(typeof value === 'string' ? value : value === undefined ? '–' : JSON.stringify(value))
  const numbers = finalNumbers(content).map(
    ([name, value]) => `<li><b>${escapeHtml(value)}</b>${escapeHtml(name)}</li>`,
  )
  const rows = content.config.map(
    ({ key, value, origin }) =>
      `<tr><th>${escapeHtml(key)}</th><td>${show(value)}</td>` +
      `<td class="${escapeHtml(origin)}">${escapeHtml(origin)}</td></tr>`,
  )
  const chart = (id: string, title: string) => `<h2>${title}</h2><div class="chart" id="${id}"></div>`
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>${escapeHtml(content.title)}</title><style>${style}${kStyle}</style></head><body>
<h1>${escapeHtml(content.title)}</h1>
<ul class="numbers">${numbers.join('')}</ul>
${content.done ? '' : '<p>This run has not finished.</p>'}
${group > 1 ? `<p class="faint">Each point is the mean of ${group} steps.</p>` : ''}
${chart('loss', 'Loss, nats per token')}${chart('lr', 'Learning rate')}
${chart('rate', 'Throughput, tokens per second')}${chart('norm', 'Gradient norm')}
<h2>Options</h2><table><tr><th>option</th><th>value</th><th>from</th></tr>${rows.join('')}</table>
<script type="application/json" id="data">${scriptJson({ series, group })}</script>
<script>${script}</script><script>${kScript}</script></body></html>
`
}

export async function writeReport(path: string, content: ReportContent): Promise<void> {
  const html = await reportHtml(content)
  try {
    await writeFile(path, html)
  } catch (error) {
    throw new LeanformerError(
      'ERR_IO',
      `report: ${path} cannot be written: ${(error as Error).message}`,
      'free some space on the disk',
      {
        cause: error,
      },
    )
  }
}
