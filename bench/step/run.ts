// Whole training steps, ours and PyTorch's in turns: same model, same starting weights, same tokens, both orders, medians.
//
//   npm run bench -- step [workload ...] [--precision f32|bf16] [--rounds 8] [--threads 2] [--measure wall|cpu]
//                         [--no-compile] [--offload] [--check | --update] [--profile]
//
// A step is forward, backward, clipping, AdamW and reading the loss; the workload generate_124m generates tokens instead.
// --offload keeps our optimiser's state in a file between updates, as the technique offload does: the same bits in less memory.
// Ratios are the better of PyTorch's medians by ours. --measure cpu compares processor time on one thread, which other work
// on the machine disturbs least. --check fails where a ratio is more than 5 % below what bench/step/baseline.json has for this
// kind of processor, --update writes that file. --profile shows where the time of our own steps goes. Writes bench/results/step.json.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { operatorRows, operatorTable } from '../../lib/cli/operator_table'
import { addon } from '../../lib/native/binding'
import type { OpProfile } from '../../lib/tensor/device'
import { median } from '../../lib/train/format'
import { Side, type Timed } from './side'
import { workloads, type Workload } from './workloads'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    precision: { type: 'string' },
    rounds: { type: 'string', default: '8' },
    threads: { type: 'string' },
    measure: { type: 'string', default: 'wall' },
    'no-compile': { type: 'boolean', default: false },
    offload: { type: 'boolean', default: false },
    check: { type: 'boolean', default: false },
    update: { type: 'boolean', default: false },
    profile: { type: 'boolean', default: false },
  },
})
function refuse(text: string): never {
  console.error(`bench step: ${text}`)
  process.exit(2)
}
const unknown = positionals.find((name) => !workloads[name])
if (unknown) refuse(`there is no workload '${unknown}'; there are ${Object.keys(workloads).join(', ')}`)
const measure = values.measure
if (measure !== 'wall' && measure !== 'cpu') refuse(`--measure is wall or cpu, not '${measure}'`)
if (values.precision && !['f32', 'bf16'].includes(values.precision)) refuse(`--precision is f32 or bf16, not '${values.precision}'`)
const rounds = Number(values.rounds)
const threads = Number(values.threads ?? (measure === 'cpu' ? 1 : addon.threads()))
const python = process.env.LEANFORMER_PYTHON
const baselineFile = path.join('bench', 'step', 'baseline.json')
const kAllowedLoss = 0.05

/** Vendor's name, family and model where the system tells them (names of virtual machines' processors say little), instruction set. */
function processorName(): string {
  const facts = existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8') : ''
  const fact = (name: string) => facts.match(new RegExp(`^${name}\\s*: (.*)$`, 'm'))?.[1]
  const numbers = fact('cpu family') && fact('model') ? ` family ${fact('cpu family')} model ${fact('model')}` : ''
  return `${os.cpus()[0].model.trim()}${numbers}, ${addon.buildInfo().isa}`
}

type Precision = 'f32' | 'bf16'

async function openSides(folder: string, workload: Workload, precision: Precision): Promise<Side[]> {
  const weights = path.join(folder, 'weights.safetensors')
  const sides: Side[] = []
  if (python) {
    const eager = Side.torch(python, false)
    await eager.ask({ cmd: 'setup', ...workload, precision, threads, seed: 0, generate: 0 })
    await eager.ask({ cmd: 'save', path: weights })
    // Set up anew where the workload generates, because that may change the weights' format.
    if (workload.generate) await eager.ask({ cmd: 'setup', ...workload, precision, threads, weights })
    sides.push(eager)
    if (!values['no-compile'] && !workload.generate) {
      const compiled = Side.torch(python, true)
      await compiled.ask({ cmd: 'setup', ...workload, precision, threads, weights, compile: true })
      sides.push(compiled)
    }
  }
  const own = Side.ours()
  await own.ask({ cmd: 'setup', ...workload, precision, threads, offload: values.offload, ...(python ? { weights } : {}) })
  rmSync(weights, { force: true })
  return [own, ...sides]
}

async function compare(name: string, workload: Workload, precision: Precision) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'leanformer-bench-'))
  const sides = await openSides(folder, workload, precision)
  const times = sides.map(() => [] as number[])
  const losses = sides.map(() => [] as number[])
  const command = { cmd: workload.generate ? 'generate' : 'step', n: workload.steps, generate: workload.generate }
  for (let round = 0; round < rounds; ++round) {
    const order = sides.map((_, i) => i)
    if (round % 2) order.reverse()
    for (const i of order) {
      const timed = await sides[i].ask<Timed>(command)
      // The first step after another process had the caches is not counted.
      times[i].push(...(measure === 'cpu' ? timed.cpu_ms : timed.ms).slice(1))
      losses[i].push(...timed.losses)
    }
  }
  const memory = await Promise.all(sides.map((side) => side.ask<{ peak_mib: number }>({ cmd: 'memory' })))
  for (const side of sides) side.close()
  rmSync(folder, { recursive: true, force: true })
  const own = median(times[0])
  return sides.map((side, i) => ({
    workload: name,
    precision,
    measure,
    threads,
    offload: values.offload,
    side: side.name,
    median_ms: median(times[i]),
    min_ms: Math.min(...times[i]),
    samples: times[i].length,
    ratio: median(times[i]) / own,
    peak_mib: memory[i].peak_mib,
    last_loss: losses[i].at(-1)!,
    largest_loss_difference: Math.max(...losses[i].map((loss, k) => Math.abs(loss - losses[0][k]))),
  }))
}

async function profile(name: string, workload: Workload, precision: Precision): Promise<void> {
  const own = Side.ours()
  await own.ask({ cmd: 'setup', ...workload, precision, threads, offload: values.offload })
  const { seconds, waited, operators } = await own.ask<{ seconds: number; waited: number; operators: OpProfile[] }>({ cmd: 'profile', n: rounds })
  own.close()
  const { f32Gflops, bf16Gflops, bandwidthGbs } = addon.measurePeaks()
  const ceilings = { gflops: precision === 'bf16' ? bf16Gflops : f32Gflops, gbs: bandwidthGbs }
  const stepMs = (1000 * seconds) / rounds
  console.log(
    `${name} ${precision}: ${stepMs.toFixed(2)} ms a step (mean of ${rounds}); ceilings ${ceilings.gflops.toFixed(0)} GFLOP/s, ` +
      `${ceilings.gbs.toFixed(1)} GB/s, ${threads} threads`,
  )
  console.log(operatorTable(operatorRows(operators, rounds, ceilings), stepMs, (1000 * waited) / rounds))
}

if (!python && !values.profile) console.error('LEANFORMER_PYTHON is not set: no PyTorch to compare with, see bench/README.md')
// Ratios by processor: another one has another share of a step that products take.
const baselines: Record<string, Record<string, number>> = existsSync(baselineFile) ? JSON.parse(readFileSync(baselineFile, 'utf8')) : {}
const machine = processorName()
const baseline = (baselines[machine] ??= {})
const results = []
const slower: string[] = []
for (const [name, workload] of Object.entries(workloads)) {
  if (positionals.length && !positionals.includes(name)) continue
  for (const precision of ['f32', 'bf16'] as const) {
    if (values.precision && values.precision !== precision) continue
    if (values.profile) {
      if (!workload.generate) await profile(name, workload, precision)
      continue
    }
    const rows = await compare(name, workload, precision)
    results.push(...rows)
    for (const row of rows) {
      console.log(
        `${name.padEnd(13)} ${precision.padEnd(4)} ${row.side.padEnd(13)} ${measure} median ${row.median_ms.toFixed(2).padStart(8)} ms` +
          `  min ${row.min_ms.toFixed(2).padStart(8)} ms  ${row.ratio.toFixed(2)}x  ${row.peak_mib.toFixed(0).padStart(5)} MiB` +
          `  loss ${row.last_loss.toFixed(5)}  (${row.samples} samples, losses within ${row.largest_loss_difference.toExponential(1)})`,
      )
    }
    if (rows.length < 2) continue
    const ratio = Math.min(...rows.slice(1).map((row) => row.ratio))
    const key = `${name} ${precision} ${measure} ${threads}${values.offload ? ' offload' : ''}`
    if (values.update) baseline[key] = Number(ratio.toFixed(3))
    if (values.check && baseline[key] === undefined) refuse(`${baselineFile} has no '${key}' for ${machine}; --update writes it`)
    if (values.check && ratio < baseline[key] * (1 - kAllowedLoss)) {
      slower.push(`${key}: ${ratio.toFixed(3)}x, the baseline is ${baseline[key]}x`)
    }
  }
}
if (values.update) writeFileSync(baselineFile, `${JSON.stringify(baselines, null, 2)}\n`)
if (results.length) {
  mkdirSync(path.join('bench', 'results'), { recursive: true })
  writeFileSync(path.join('bench', 'results', 'step.json'), JSON.stringify({ machine, ceilings: addon.measurePeaks(), results }, null, 2))
}
if (slower.length) {
  console.error(`slower than the baseline by more than ${100 * kAllowedLoss} %:\n${slower.join('\n')}`)
  process.exitCode = 1
}
