import * as fs from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { ByteTokenizer } from '../../lib/data/tokenizers/bytes'
import { formatBytes, formatCount, formatDuration, median } from '../../lib/train/format'
import { bitsPerByte, stepRecord, type StepRecord } from '../../lib/train/metrics'
import { reportHtml, reportSeries, writeReport, type ReportContent } from '../../lib/train/report'
import { RunFolder } from '../../lib/train/run_folder'

const records = (n: number): StepRecord[] =>
  Array.from({ length: n }, (_, i) =>
    stepRecord({
      step: i + 1,
      loss: 5 * Math.exp(-i / 100) + 1.5,
      lr: 1e-3,
      gradNorm: 1,
      tokens: 10,
      tokensPerSecond: 5000,
      stepMs: 2,
      flops: 1,
      liveBytes: 1,
      peakBytes: 2,
      ...(i % 50 === 49 ? { valLoss: 2 } : {}),
    }),
  )

const content = (metrics: StepRecord[]): ReportContent => ({
  title: 'gpt on <b>"text" & more</b></script>',
  config: [
    { key: 'text', value: '</script><script>alert(1)</script>', origin: 'flag' },
    { key: 'lr', value: 1e-3, origin: 'default' },
  ],
  metrics,
  facts: { parameters: '1,000' },
  done: {
    event: 'done',
    train_loss: 1.51234,
    val_loss: 2.05,
    val_bits_per_byte: 2.9575,
    tokens_per_second: 5012.4,
    step_ms_median: 2,
    peak_bytes: 3 * 2 ** 20,
    checkpoint: 'x',
  },
})

/** The data that the page's script reads. */
const dataOf = (html: string) =>
  JSON.parse(/<script type="application\/json" id="data">(.*?)<\/script>/s.exec(html)![1]!) as ReturnType<
    typeof reportSeries
  >

test('holds all it needs: no address of another host or file', async () => {
  const html = (await reportHtml(content(records(100)))).replace(/\/\*!.*?\*\//gs, '') // the library's licence note
  const outside = [/(?:src|href)\s*=/i, /https?:\/\//, /@import|url\(/].filter((pattern) => pattern.test(html))
  expect(outside).toEqual([])
  expect([html.includes('uPlot='), html.includes('.uplot')]).toEqual([true, true])
})

test('nothing given can break out of its place', async () => {
  const html = await reportHtml(content(records(3)))
  expect(html.match(/<script/g)).toHaveLength(3)
  expect(html.match(/<\/script/g)).toHaveLength(3)
  expect(html.includes('alert(1)</script>')).toBe(false)
  expect(html.includes('&#60;b&#62;&#34;text&#34; &#38; more')).toBe(true)
})

test('shows the curves, the options with their origin, and the final numbers', async () => {
  const html = await reportHtml(content(records(100)))
  const { series, group } = dataOf(html)
  expect(group).toBe(1)
  expect(series.step).toEqual(Array.from({ length: 100 }, (_, i) => i + 1))
  expect(series.loss[0]).toBe(6.5)
  expect(series.val.filter((v) => v !== null)).toEqual([2, 2])
  for (const part of [
    '<b>1.5123</b>training loss',
    '<b>2.9575</b>validation bits',
    '<b>5,012</b>tokens per second',
    '<b>3</b>peak',
    '<b>1,000</b>parameters',
  ]) {
    expect([part, html.includes(part)]).toEqual([part, true])
  }
  expect(html.includes('<th>lr</th><td>0.001</td><td class="default">default</td>')).toBe(true)
})

test('a long run is averaged to a few thousand points and says so; gaps stay gaps', async () => {
  const many = records(10_001)
  many[0] = { ...many[0]!, loss: NaN }
  const { series, group } = reportSeries(many)
  expect(group).toBe(3)
  expect(series.step.length).toBe(3334)
  expect(series.step.slice(-2)).toEqual([9999, 9999 + 2])
  expect(series.loss[0]).toBeCloseTo((many[1]!.loss + many[2]!.loss) / 2, 12)
  expect(series.val.filter((v) => v !== null)).toHaveLength(200)
  expect((await reportHtml(content(many))).includes('mean of 3 steps')).toBe(true)
})

test('a run without steps, and one that has not finished', async () => {
  const { done: _, ...unfinished } = content([])
  const html = await reportHtml(unfinished)
  expect([html.includes('has not finished'), html.includes('>NaN')]).toEqual([true, false])
})

test('a report that cannot be written is a coded error', async () => {
  await expect(writeReport(join(tmpdir(), 'no-such-folder', 'r.html'), content([]))).rejects.toMatchObject({
    code: 'ERR_IO',
  })
})

test('the run folder drops a torn line and rewinds', async () => {
  const dir = await fs.mkdtemp(join(tmpdir(), 'leanformer-run-'))
  try {
    const folder = await RunFolder.create(
      join(dir, 'a'),
      { values: { steps: 3 }, origins: { steps: 'flag' }, textSha256: 'x' },
      new ByteTokenizer(),
    )
    for (const record of records(5)) folder.appendMetrics(record)
    await fs.appendFile(join(dir, 'a', 'metrics.jsonl'), '{"event":"step","st')
    const again = await RunFolder.open(join(dir, 'a'))
    expect(again.config).toEqual({ values: { steps: 3 }, origins: { steps: 'flag' }, textSha256: 'x' })
    expect(again.tokenizer.name).toBe('bytes')
    expect((await again.readMetrics()).map((m) => m.step)).toEqual([1, 2, 3, 4, 5])
    await again.rewindMetrics(3)
    again.appendMetrics(records(4)[3]!)
    expect((await again.readMetrics()).map((m) => m.step)).toEqual([1, 2, 3, 4])
    folder.close()
    again.close()
  } finally {
    await fs.rm(dir, { recursive: true })
  }
})

test('numbers for people', () => {
  expect([0, 1023, 1536, 15 * 2 ** 20, 3 * 2 ** 40].map(formatBytes)).toEqual([
    '0 B',
    '1023 B',
    '1.50 KiB',
    '15.0 MiB',
    '3.00 TiB',
  ])
  expect([0, 7, 12.34, 999, 1000, 12345, 999_999, 2.5e9].map(formatCount)).toEqual([
    '0',
    '7',
    '12.3',
    '999',
    '1.00k',
    '12.3k',
    '1000k',
    '2.50G',
  ])
  expect([0, 59.4, 65, 3725, NaN].map(formatDuration)).toEqual(['0s', '59s', '1m 05s', '1h 02m', '?'])
  expect([median([3, 1, 2]), median([4, 1, 2, 3]), median([])]).toEqual([2, 2.5, NaN])
  expect(bitsPerByte(Math.LN2 * 3, 50, 100)).toBeCloseTo(1.5, 12)
})
