// Dense, block-sparse and CSR attention on one device, and where each is right:
//
//   npm run bench -- attention [--device cpu] [--quick] [--dtype f32,bf16] [--fit] [--features]
//
// Prints every time beside the one that the crossover rule forecasts, then the densities at which the ways cross, measured
// and by the rule. --fit first writes the rule's constants for this device into lib/attention/costs.gen.ts.
// --features: instead of these FAVOR+ and linear attention, fused and composed of single operators, beside exact attention.
import { writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { attentionWays, type CallCost, type DeviceCosts } from '../../lib/attention/crossover'
import { costs } from '../../lib/attention/costs.gen'
import type { DType } from '../../lib/native/dtype'
import { getDevice } from '../../lib/tensor/device'
import { attentionGrid, crossoverTable, measureAttention, misfit, timesTable, type Point, type Row } from './compare'
import { featureSizes, featureTables } from './features'

const { values } = parseArgs({
  allowPositionals: true,
  options: {
    device: { type: 'string', default: 'cpu' },
    quick: { type: 'boolean', default: false },
    dtype: { type: 'string', default: 'f32,bf16' },
    fit: { type: 'boolean', default: false },
    features: { type: 'boolean', default: false },
  },
})
const device = getDevice(values.device)
const gpu = device.name.startsWith('cuda')
const dtypes = values.dtype.split(',') as DType[]

const cell = (value: string | number | null) => (typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(3)) : (value ?? '-'))
const line = (row: Row) => '  ' + Object.entries(row).map(([name, value]) => `${name} ${cell(value)}`).join('  ')

/** Least squares in relative error of seconds = call + pairs pair + pairs width pairWidth, with nothing below 0. */
function fit(points: readonly Point[], time: (point: Point) => number): CallCost {
  const terms = (point: Point) => {
    const pairs = point.batch * point.heads * point.pairs
    return [1, pairs, pairs * point.width].map((x) => x / time(point))
  }
  let used = [0, 1, 2]
  for (;;) {
    // Normal equations, by elimination; each term is brought to a size of about 1 first.
    const size = used.map((t) => Math.max(...points.map((point) => terms(point)[t])))
    const rows = used.map((t, i) => [
      ...used.map((u, j) => points.reduce((sum, point) => sum + (terms(point)[t] / size[i]) * (terms(point)[u] / size[j]), i === j ? 1e-9 : 0)),
      points.reduce((sum, point) => sum + terms(point)[t] / size[i], 0),
    ])
    for (let i = 0; i < used.length; ++i) {
      for (let r = 0; r < used.length; ++r) {
        if (r === i) continue
        const factor = rows[r][i] / rows[i][i]
        rows[r] = rows[r].map((x, c) => x - factor * rows[i][c])
      }
    }
    const found = used.map((_, i) => rows[i][used.length] / rows[i][i] / size[i])
    const lowest = found.indexOf(Math.min(...found))
    if (found[lowest] >= 0 || used.length === 1) {
      const out = [0, 0, 0]
      used.forEach((t, i) => (out[t] = Number(Math.max(0, found[i]).toPrecision(3))))
      return { call: out[0], pair: out[1], pairWidth: out[2] }
    }
    used = used.filter((_, i) => i !== lowest)
  }
}

function writeCosts(points: readonly Point[]): void {
  const kind = gpu ? 'cuda' : 'cpu'
  const name = gpu ? device.facts().description.split(',')[0] : `${os.cpus()[0].model.trim()}, ${process.env.LEANFORMER_THREADS ?? os.availableParallelism()} threads`
  const measured: DeviceCosts = { ...costs[kind], source: `measured on ${name}` }
  for (const dtype of ['f32', 'bf16'] as const) {
    const own = points.filter((point) => point.dtype === dtype)
    if (!own.length) continue
    measured[dtype] = Object.fromEntries(
      attentionWays.map((way) => {
        const list = own.filter((point) => point.way === way)
        return [way, { forward: fit(list, ({ forward }) => forward), backward: fit(list, ({ backward }) => backward) }]
      }),
    ) as DeviceCosts['f32']
  }
  costs[kind] = measured
  const file = path.join('lib', 'attention', 'costs.gen.ts')
  const format = (value: DeviceCosts) =>
    [
      `    source: '${value.source}',`,
      ...(['f32', 'bf16'] as const).flatMap((dtype) => [
        `    ${dtype}: {`,
        ...attentionWays.map((way) => {
          const cost = ({ call, pair, pairWidth }: CallCost) => `{ call: ${call}, pair: ${pair}, pairWidth: ${pairWidth} }`
          return `      ${way}: { forward: ${cost(value[dtype][way].forward)}, backward: ${cost(value[dtype][way].backward)} },`
        }),
        '    },',
      ]),
    ].join('\n')
  writeFileSync(
    file,
    `// Constants of lib/attention/crossover.ts, in seconds. Written by \`npm run bench -- attention --fit\` for the device that it
// ran on; what no benchmark has measured yet says so.
import type { DeviceCosts } from './crossover'

export const costs: Record<'cpu' | 'cuda', DeviceCosts> = {
  cpu: {
${format(costs.cpu)}
  },
  cuda: {
${format(costs.cuda)}
  },
}
`,
  )
  console.log(`constants written to ${file}`)
}

async function patterns(): Promise<void> {
  const points = await measureAttention(device, attentionGrid(device, dtypes, values.quick), (point) => {
    if (process.stdout.isTTY) console.log(line(timesTable(device, [point])[0]))
  })
  if (values.fit) writeCosts(points)
  console.log(`\ntimes; the rule's constants: ${costs[gpu ? 'cuda' : 'cpu'].source}`)
  for (const row of timesTable(device, points)) console.log(line(row))
  console.log('\ncrossover: the density up to which one way beats the other, forwards and backwards; 0: at none that was measured, -: at all of them')
  for (const row of crossoverTable(device, points)) console.log(line(row))
  console.log('\nthe rule against the measurement, median of |log2| of the ratio')
  console.log(line(misfit(device, points)))
}

async function features(): Promise<void> {
  console.log('\ncausal attention by features, one sample; composed: from single operators; times forwards, and of forwards and backwards')
  const crossings: Row[] = []
  for (const dtype of dtypes) {
    crossings.push(...(await featureTables(device, dtype, featureSizes(device, values.quick), (row) => console.log(line(row)))))
  }
  console.log('\nfaster than exact attention from this length on; -: not near the lengths that were measured')
  for (const row of crossings) console.log(line(row))
}

console.log(`${device.name}: ${device.facts().description}`)
await (values.features ? features() : patterns())
