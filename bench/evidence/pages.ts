// The words of docs/evidence: a page a card, the index, and the verdicts as a module of the library.
import { formatBytes, formatCount } from '../../lib/train/format'
import type { ArmSummary, CardRecord, KernelsRow } from './record'

const bits = (value: number | null) => (value === null || !Number.isFinite(value) ? 'diverged' : value.toFixed(4))
const signed = (value: number) => `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(4)}`
const percent = (ratio: number) => `${ratio < 1 ? '−' : '+'}${Math.abs(100 * (ratio - 1)).toFixed(1)} %`
const cell = (text: string) => text.replaceAll('|', '\\|')
const rate = (value: number) => String(Number(value.toPrecision(3)))

const budgets = { flops: 'the FLOPs that the operators declare', steps: 'steps and tokens' }
const improved = { loss: 'validation loss', peakBytes: 'peak bytes', flops: 'FLOPs', seconds: 'processor time' }

export function differenceText({ difference }: Pick<CardRecord, 'difference'>): string {
  if (!difference) return 'a run diverged'
  return `${signed(difference.mean)} [${signed(difference.low)}, ${signed(difference.high)}]`
}

function verdictText(record: CardRecord): string {
  const { verdict, improves, ratio } = record
  const cost = improves === 'seconds' ? ratio.cpuSeconds : improves === 'loss' ? 0 : ratio[improves]
  const change = improves === 'loss' ? '' : `, ${improved[improves]} ${percent(cost)}`
  return `**Verdict: ${verdict}** in ${improved[improves]}: ${differenceText(record)} bits per byte${change}.`
}

function row({ label, flags, bitsPerByte: { mean, low, high }, flops, cpuSeconds, peakBytes }: ArmSummary): string {
  const loss = Number.isFinite(mean) ? `${bits(mean)} [${bits(low)}, ${bits(high)}]` : 'diverged'
  return `| ${cell(label)} | \`${flags}\` | ${loss} | ${formatCount(flops)} | ${cpuSeconds.toFixed(1)} s | ${formatBytes(peakBytes)} |`
}

const searchText = ({ label, search, lr }: ArmSummary) =>
  `${label}: ${search.map((tried) => `${rate(tried.lr)} → ${bits(tried.bitsPerByte)}`).join(', ')}; taken ${rate(lr)}`

/** What `leanformer kernels` found. */
function kernelsLines({ trainFlags, flags, loss, cost, single, frontier, chosen }: NonNullable<CardRecord['kernels']>): string[] {
  const line = (name: string, { units, cost: value, change, measured, ms }: KernelsRow) =>
    `| ${name} | ${Object.entries(units).map(([kernel, count]) => `${count} ${kernel}`).join(', ')} | ${cost === 'flops' ? formatCount(value) : `${(1e6 * value).toFixed(0)} us`} | ` +
    `${signed(change)} | ${signed(measured)} | ${ms.toFixed(2)} |`
  return [
    `**Frontier.** Of a model trained with \`${trainFlags}\` over the options below, which kernel each head can have: \`leanformer kernels --run RUN${flags && ` ${flags}`}\`. ` +
      `Softmax alone has a validation loss of ${loss.toFixed(4)} nats. Cost is that of attention, added up over single heads; changes of the loss are foretold by changing one head at a ` +
      'time, and measured with all of them changed; milliseconds are of one micro-batch forward through the whole model.',
    '',
    '| | heads | cost | loss, foretold | loss, measured | ms |',
    '|---|---|---|---|---|---|',
    ...single.map((row) => line('one kernel', row)),
    ...frontier.map((row, i) => line(`point ${i + 1}`, row)),
    line('chosen', chosen),
    '',
  ]
}

/** docs/evidence/NAME.md */
export function page(record: CardRecord): string {
  const { name, title, claim, budget, when, seeds, commonFlags, baseline, technique, ratio, margin } = record
  const pairs = seeds.map((seed, i) => `${seed}: ${bits(baseline.bitsPerByte.values[i])} / ${bits(technique.bitsPerByte.values[i])}`)
  return [
    `# ${title}`,
    '',
    verdictText(record),
    '',
    `**Claim.** ${claim}`,
    '',
    `**Measured.** Validation bits per byte at the end, mean of ${seeds.length} seeds with its 95 % t-interval. Equal budget: ${budgets[budget]}.`,
    '',
    '| | options | bits per byte | FLOPs | processor time | peak bytes |',
    '|---|---|---|---|---|---|',
    row(baseline),
    row(technique),
    '',
    `Difference, technique minus baseline, paired by seed: ${differenceText(record)} bits per byte (below 0 is better; within ` +
      `±${margin.toFixed(4)}, 1 % of the baseline, is called equal).`,
    '',
    `**Cost.** FLOPs ${percent(ratio.flops)}, processor time ${percent(ratio.cpuSeconds)}, peak bytes ${percent(ratio.peakBytes)}.`,
    '',
    ...(record.kernels ? kernelsLines(record.kernels) : []),
    `**When to use it.** ${when}`,
    '',
    '<details><summary>How to repeat it</summary>',
    '',
    `\`npm run evidence -- ${name}\`, or \`leanformer train\` with the options of an arm, \`--seed\` ${seeds.join(', ')} and`,
    '',
    '```',
    commonFlags,
    '```',
    '',
    ...(record.pretrainFlags ? [`Both arms start from one model, trained with \`${record.pretrainFlags}\`.`, ''] : []),
    ...(record.teacherFlags ? [`The teacher is trained first, with \`${record.teacherFlags}\`.`, ''] : []),
    'Each arm has the best learning rate of a search by factors of 2, with a seed of its own (bits per byte):',
    '',
    `- ${searchText(baseline)}`,
    `- ${searchText(technique)}`,
    '',
    `Seed by seed, baseline / technique: ${pairs.join('; ')}.`,
    '',
    '</details>',
    '',
  ].join('\n')
}

/** docs/evidence/README.md */
export function indexPage(records: readonly CardRecord[]): string {
  const counts = ['better', 'equal', 'worse', 'not shown'].map((verdict) => `${records.filter((r) => r.verdict === verdict).length} ${verdict}`)
  return [
    '# Evidence',
    '',
    'Each technique against its baseline on real text (Moby-Dick, bytes) at an equal budget, on a CPU: a GPT small enough that a',
    'card takes minutes, at least 5 seeds, the learning rate searched for and decayed on both sides. Differences are validation',
    'bits per byte with a 95 % t-interval, below 0 is better. What does not help at this size stays in the table: a small model and',
    'a short run say little about a large one. `npm run evidence -- NAME` runs a card again; the pages are written from the JSON',
    'beside them, and a new card is one file in `bench/evidence/cards/`.',
    '',
    'FLOPs and bytes are exact. Processor times come from a shared machine and so small a model is mostly calls, not arithmetic:',
    'read nothing into less than a third.',
    '',
    `${records.length} cards: ${counts.join(', ')}.`,
    '',
    '![Loss against FLOPs](frontier.svg)',
    '',
    '| card | against | verdict | in | difference, bits per byte | FLOPs | processor time | peak bytes |',
    '|---|---|---|---|---|---|---|---|',
    ...records.map((r) =>
      `| [${cell(r.title)}](${r.name}.md) | ${cell(r.baseline.label)} | **${r.verdict}** | ${improved[r.improves]} | ${differenceText(r)} | ` +
        `${percent(r.ratio.flops)} | ${percent(r.ratio.cpuSeconds)} | ${percent(r.ratio.peakBytes)} |`),
    '',
  ].join('\n')
}

/** lib/catalog/verdicts.gen.ts: the verdict of each entry of the catalogue that a card is about. */
export function verdictModule(records: readonly CardRecord[]): string {
  const lines = records.flatMap((record) => record.about.map(({ kind, name }) => {
    const fields = { card: record.name, verdict: record.verdict, against: record.baseline.label, difference: differenceText(record) }
    const text = Object.entries(fields).map(([key, value]) => `${key}: '${value.replaceAll("'", "\\'")}'`).join(', ')
    return `  '${kind} ${name}': { ${text} },`
  }))
  return [
    '// Generated from docs/evidence by `npm run evidence`; do not edit. Verdicts of the evidence cards by kind and name of the entry.',
    "import type { Verdict } from './verdict'",
    '',
    'export const verdicts: Readonly<Record<string, Verdict>> = {',
    ...lines.sort(),
    '}',
    '',
  ].join('\n')
}
