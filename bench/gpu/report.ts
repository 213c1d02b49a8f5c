// What each CUDA kernel costs: counters, registers and occupancy from the simulator, the time that the hardware's limits allow on
// an H100 and an A100, and beside it the time that a real GPU took. What the compiler made of all kernels is in static.ts.
//
//   npm run bench -- gpu-report             counters into docs/gpu.json, then docs/gpu.md; LEANFORMER_GPUSIM names the simulator
//   npm run bench -- gpu-report --measure   times on this machine's GPU into docs/gpu.json, then docs/gpu.md
//   npm run bench -- gpu-report --page      docs/gpu.md alone, from docs/gpu.json
//   npm run bench -- gpu-report --check     fails where a kernel misses a bar, changes nothing
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { getDevice } from '../../lib/tensor/device'
import { kernelCases, type KernelCase } from './cases'
import { gptSteps } from './gpt_steps'
import { deviceSeconds } from './timing'
import { renderReport, shortName, type CaseReport, type KernelCounters, type Report, type StepReport } from './report_page'

const { values } = parseArgs({
  allowPositionals: true,
  options: {
    measure: { type: 'boolean', default: false },
    check: { type: 'boolean', default: false },
    page: { type: 'boolean', default: false },
    child: { type: 'string' },
    part: { type: 'string' },
    layers: { type: 'string' },
    steps: { type: 'string' },
    only: { type: 'string', default: '' },
  },
})
type Part = 'forward' | 'backward'
// Counting is done by children, on the simulated GPU.
const device = getDevice(values.child || values.measure ? 'cuda:0' : 'cpu')
const reportFile = path.join('docs', 'gpu.json')
const page = path.join('docs', 'gpu.md')

interface Declared {
  op: string
  bytes: number
  flops: number
}

/** Runs one part of a case once; what its operators declare. */
async function runOnce(spec: KernelCase, part: Part): Promise<Declared[]> {
  const run = spec.prepare(device)
  device.profile(true)
  run(part)
  await device.synchronize()
  return device.profile(true).map(({ op, bytesRead, bytesWritten, flops }) => ({ op, bytes: bytesRead + bytesWritten, flops }))
}

/** Steps of a small GPT; the graphs that the host launched in the last one. */
async function runSteps(layers: number, steps: number): Promise<number> {
  const { step } = gptSteps(device, { vocab: 64, context: 32, layers, width: 64, heads: 2 }, 2, { precision: 'bf16', graphs: true })
  let before = 0
  for (let i = 0; i < steps; ++i) {
    before = (await device.synchronize()).graphReplays
    await step()
  }
  return (await device.synchronize()).graphReplays - before
}

if (values.child === 'steps') {
  console.log(JSON.stringify(await runSteps(Number(values.layers), Number(values.steps))))
  process.exit(0)
}
if (values.child) {
  console.log(JSON.stringify(await runOnce(kernelCases.find(({ name }) => name === values.child)!, values.part as Part)))
  process.exit(0)
}

const folder = mkdtempSync(path.join(os.tmpdir(), 'leanformer-gpu-report-'))

/** Runs a part of this program on the simulated GPU: what it printed, and all kernels that ran. */
function simulated<T>(name: string, ...child: string[]): { printed: T; kernels: KernelCounters[] } {
  const simulator = process.env.LEANFORMER_GPUSIM
  if (!simulator) throw new Error('LEANFORMER_GPUSIM is not set: it names the folder of the simulator that counts')
  const profile = path.join(folder, 'profile.json')
  // The checks are for the tests; here only counters matter.
  const env = { ...process.env, GPUSIM_PROFILE: profile, GPUSIM_PTXAS: '1', GPUSIM_RACECHECK: '0', GPUSIM_INITCHECK: '0', GPUSIM_STRICT: '0' }
  const args = ['run', '--', process.execPath, process.argv[1], 'gpu-report', '--child', ...child]
  const { status, stdout, stderr } = spawnSync(path.join(simulator, 'bin', 'gpusim'), args, { env, encoding: 'utf8' })
  if (status !== 0) throw new Error(`${name}: ${stderr}`)
  const { kernels } = JSON.parse(readFileSync(profile, 'utf8')) as { kernels: KernelCounters[] }
  return { printed: JSON.parse(stdout.trim().split('\n').at(-1)!) as T, kernels }
}

/** The kernels of a training step and of one layer in it, and the graphs that the host launches in their place. */
function countSteps(): StepReport {
  const steps = 8 // by then the step is known
  const run = (layers: number, count: number) => simulated<number>('steps', 'steps', '--layers', String(layers), '--steps', String(count))
  const launches = (layers: number, count: number) => run(layers, count).kernels.reduce((sum, kernel) => sum + kernel.launches, 0)
  const [two, four] = [2, 4].map((layers) => launches(layers, steps + 1) - launches(layers, steps))
  return { perLayer: (four - two) / 2, others: 2 * two - four, graphs: run(4, steps + 1).printed }
}

const total = (list: readonly Declared[], key: 'bytes' | 'flops') => list.reduce((sum, each) => sum + each[key], 0)

const summed = [
  'launches', 'flops', 'mmaFlops', 'globalLoadBytes', 'globalStoreBytes', 'globalLoadSectors', 'globalStoreSectors', 'uniqueBytesRead',
  'uniqueBytesWritten', 'sharedLoads', 'sharedStores', 'bankConflictCycles', 'localAccesses',
] as const

/** What both passes ran, less what the forward pass alone does. */
function withoutForward(both: readonly KernelCounters[], forward: readonly KernelCounters[]): KernelCounters[] {
  return both.flatMap((kernel) => {
    const first = forward.find(({ mangled }) => mangled === kernel.mangled)
    if (!first) return kernel
    if (kernel.launches === first.launches) return []
    // A library's have launches alone.
    return { ...kernel, ...Object.fromEntries(summed.filter((key) => key in kernel).map((key) => [key, kernel[key] - first[key]])) }
  })
}

function countCase(spec: KernelCase): CaseReport[] {
  const { name, shape, bound } = spec
  const count = (part: Part) => {
    const { printed, kernels } = simulated<Declared[]>(`${name} ${part}`, name, '--part', part)
    return { declared: printed, kernels }
  }
  const forward = count('forward')
  const reports: CaseReport[] = [
    { name, shape, bound, part: 'forward', bytes: total(forward.declared, 'bytes'), flops: total(forward.declared, 'flops'), kernels: forward.kernels },
  ]
  if (spec.parts.includes('backward')) {
    const both = count('backward')
    // What the forward pass ran as well is not the backward pass.
    const operators = new Set(forward.declared.map(({ op }) => op))
    // One operator that runs in both passes (a product) is counted in whole: both passes of it, less the first.
    const declared = both.declared.filter(({ op }) => !operators.has(op))
    const own = declared.length ? withoutForward(both.kernels, forward.kernels) : both.kernels
    const list = declared.length ? declared : both.declared
    reports.push({ name, shape, bound, part: declared.length ? 'backward' : 'both', bytes: total(list, 'bytes'), flops: total(list, 'flops'), kernels: own })
  }
  return reports
}

/** Warps that a multiprocessor holds at the least, by kernel, as the files of native/cuda say: "Warps an SM: norm_kernel 24, ...". */
function statedWarps(): Map<string, number> {
  const folder = path.join('native', 'cuda')
  const texts = readdirSync(folder).map((file) => readFileSync(path.join(folder, file), 'utf8').replaceAll('\n// ', ' '))
  const stated = texts.flatMap((text) => [...text.matchAll(/Warps an SM[^:]*: ([^.]*)\./g)]).flatMap((match) => [...match[1].matchAll(/(\w+) (\d+)/g)])
  return new Map(stated.map(([, kernel, warps]) => [kernel, Number(warps)]))
}

const warpsOfAnSM = 64 // of sm_80 and sm_90
/** By kernel, over its instances in the cases. */
function fewestWarps(report: Report): Map<string, number> {
  const fewest = new Map<string, number>()
  for (const { name, occupancy, library } of report.cases.flatMap(({ kernels }) => kernels)) {
    if (library) continue
    const kernel = /(\w+)(<|\()/.exec(shortName(name))?.[1] ?? shortName(name)
    fewest.set(kernel, Math.min(fewest.get(kernel) ?? warpsOfAnSM, Math.round(occupancy * warpsOfAnSM)))
  }
  return fewest
}

/** Where a kernel misses a bar: bytes moved, sector efficiency, bank conflicts, spills, tensor cores, occupancy. */
function misses(report: Report): string[] {
  const found: string[] = []
  const stated = statedWarps()
  for (const each of report.cases) {
    const where = `${each.name} ${each.part}`
    // The libraries' kernels have no counters.
    const own = each.kernels.filter((kernel) => !kernel.library)
    const sum = (key: keyof KernelCounters) => own.reduce((total, kernel) => total + (kernel[key] as number), 0)
    const sectors = sum('globalLoadSectors') + sum('globalStoreSectors')
    const moved = 32 * sectors
    if (each.bound === 'bytes' && moved > 1.1 * each.bytes) found.push(`${where}: moves ${(moved / each.bytes).toFixed(3)} times the compulsory bytes`)
    const efficiency = (sum('globalLoadBytes') + sum('globalStoreBytes')) / moved
    if (each.bound === 'bytes' && efficiency < 0.95) found.push(`${where}: uses ${(100 * efficiency).toFixed(1)} % of the sectors it moves`)
    const shared = sum('sharedLoads') + sum('sharedStores')
    const conflicts = sum('bankConflictCycles')
    if (conflicts > 0.05 * (shared + conflicts)) found.push(`${where}: ${((100 * conflicts) / (shared + conflicts)).toFixed(1)} % of shared memory cycles are bank conflicts`)
    if (/^(attention|featureAttention)/.test(each.name) && sum('mmaFlops') < each.flops) {
      found.push(`${where}: ${sum('mmaFlops')} of ${each.flops} FLOPs on tensor cores`)
    }
    if (sum('localAccesses') > 0) found.push(`${where}: spills to local memory`)
  }
  if (report.steps && report.steps.graphs !== 1) found.push(`a training step that repeats itself: ${report.steps.graphs} graphs`)
  for (const [kernel, warps] of fewestWarps(report)) {
    const wanted = stated.get(kernel)
    if (wanted === undefined) found.push(`${kernel}: no "Warps an SM" line in native/cuda says its occupancy`)
    else if (warps < wanted) found.push(`${kernel}: ${warps} warps an SM, its file says ${wanted}`)
  }
  return found
}

const readKnown = (): Report => (existsSync(reportFile) ? (JSON.parse(readFileSync(reportFile, 'utf8')) as Report) : { cases: [], measured: null })
let known = readKnown()

try {
  if (values.page) {
    console.log(page)
  } else if (values.measure) {
    const times: Record<string, number> = {}
    for (const spec of kernelCases) {
      if (!spec.name.includes(values.only)) continue
      const run = spec.prepare(device)
      times[`${spec.name} forward`] = await deviceSeconds(device, () => run('forward'))
      if (spec.parts.includes('backward')) {
        const both = await deviceSeconds(device, () => run('backward'))
        times[`${spec.name} backward`] = both - times[`${spec.name} forward`]
        times[`${spec.name} both`] = both
      }
      console.log(`${spec.name.padEnd(28)} ${(1e6 * times[`${spec.name} forward`]).toFixed(1).padStart(9)} us forward`)
    }
    known.measured = { device: device.facts().description, seconds: times }
    const baselines = path.join('bench', 'results', 'gpu.json')
    if (existsSync(baselines)) {
      const { device: on, results } = JSON.parse(readFileSync(baselines, 'utf8')) as { device: string; results: Report['baselines'] }
      Object.assign(known, { baselines: results, baselinesOn: on })
    }
  } else {
    const cases = kernelCases.filter(({ name }) => name.includes(values.only)).flatMap((spec) => {
      console.error(spec.name)
      return countCase(spec)
    })
    const steps = 'steps'.includes(values.only) ? countSteps() : known.steps
    const report: Report = { ...known, cases, ...(steps ? { steps } : {}) }
    const found = misses(report)
    for (const miss of found) console.log(miss)
    console.log(`${cases.length} cases, ${found.length} misses`)
    if (values.check) process.exitCode = found.length ? 1 : 0
    known = readKnown() // gpu-static may have written meanwhile
    if (steps) known.steps = steps
    const order = (each: CaseReport) => kernelCases.findIndex(({ name }) => name === each.name)
    const others = known.cases.filter(({ name }) => values.only && !name.includes(values.only))
    known.cases = [...others, ...cases].sort((a, b) => order(a) - order(b))
  }
  if (!values.check) {
    writeFileSync(reportFile, JSON.stringify(known, null, 1) + '\n')
    writeFileSync(page, renderReport(known))
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
