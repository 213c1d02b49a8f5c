// Times every operator: each case of test/ops in its benchmark shapes, forwards and backwards, operator by operator as the
// device's profile tells them apart. The numbers beside the seconds are bytes and FLOPs of the operator's own cost rule, and
// their share of what this machine was measured to do. Writes bench/results/ops.json.
//
//   node scripts/run_ts.mjs bench/ops/run.ts [part of a case's name] [--dtype bf16] [--threads 1]
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { addon } from '../../lib/native/binding'
import { isFloating, type DType } from '../../lib/native/dtype'
import { backward } from '../../lib/autograd/backward'
import { getDevice, type OpProfile } from '../../lib/tensor/device'
import { keep, scope } from '../../lib/tensor/scope'
import { collectCases, type BenchShape, type OpCase } from '../../test/support/op_case'
import { prepare, toDevice } from '../../test/support/samples'

const batchSeconds = 0.02
const batches = 5

const options = process.argv.slice(2)
function option(name: string): string | undefined {
  const at = options.indexOf(name)
  return at < 0 ? undefined : options.splice(at, 2)[1]
}
const onlyDType = option('--dtype') as DType | undefined
const threads = option('--threads')
if (threads) addon.setThreads(Number(threads))
const device = getDevice(option('--device') ?? 'cpu')
device.timeOperators(true)
const [part = ''] = options

const files = readdirSync('test/ops').filter(
  (file) => !file.startsWith('coverage') && /\bopCase\b/.test(readFileSync(`test/ops/${file}`, 'utf8')),
)
const cases = await collectCases(async () => {
  for (const file of files) await import(`../../test/ops/${file.slice(0, -'.test.ts'.length)}.test.ts`)
})

if (!cases.some(({ name }) => name.includes(part))) {
  console.error(`bench: there is no benchmark and no case of an operator with '${part}' in its name; cases: ${cases.map(({ name }) => name).join(', ')}`)
  process.exit(2)
}

/** Per operator, the fastest of several batches that each run for a while. */
async function measure(spec: OpCase<unknown>, shape: BenchShape<unknown>, dtype: DType): Promise<OpProfile[]> {
  const differentiable = !spec.noGradient && isFloating(dtype)
  const inputs = prepare(spec.name, shape.inputs, dtype).map(
    (input) => input && keep(toDevice(input, device, input.dtype, differentiable && input.grad)),
  )
  const once = () => {
    scope(() => {
      const [out] = [spec.run(inputs as never, shape.attrs)].flat()
      if (out.requiresGrad && !inputs.includes(out)) backward(out, out.detach())
    })
    for (const input of inputs) {
      input?.grad?.dispose()
      if (input) input.grad = null
    }
  }
  const best = new Map<string, OpProfile>()
  for (let batch = 0; batch < batches; ++batch) {
    device.profile(true)
    for (const end = performance.now() + 1000 * batchSeconds; performance.now() < end; ) {
      once()
      await device.synchronize()
    }
    for (const entry of device.profile(true)) {
      const before = best.get(entry.op)
      if (!before || entry.seconds / entry.calls < before.seconds / before.calls) best.set(entry.op, entry)
    }
  }
  for (const input of inputs) input?.dispose()
  return [...best.values()]
}

// Ceilings are measured on the CPU; of other devices they are not known here.
const peaks = device.name === 'cpu' ? addon.measurePeaks() : null

/** The share, in %, of the ceiling that an operator is nearer to: memory reads or products. Data in a cache can pass 100. */
function shareOf(gigabytes: number, gigaflops: number, dtype: DType): number | null {
  if (!peaks) return null
  const products = dtype === 'bf16' ? peaks.bf16Gflops : dtype === 'f64' ? peaks.f32Gflops / 2 : peaks.f32Gflops
  return 100 * Math.max(gigabytes / peaks.bandwidthGbs, gigaflops / products)
}

const text = (value: number | null) => (value === null ? '-' : value >= 100 ? value.toFixed(0) : value.toPrecision(3)).padStart(8)
const results: object[] = []
console.log(`${addon.buildInfo().isa}, ${addon.threads()} threads, ${device.name}`)
if (peaks) {
  const { f32Gflops, bf16Gflops, bandwidthGbs } = peaks
  console.log(`ceilings: ${f32Gflops.toFixed(0)} GFLOP/s f32, ${bf16Gflops.toFixed(0)} GFLOP/s bf16, ${bandwidthGbs.toFixed(1)} GB/s`)
}
console.log(`${'case'.padEnd(24)} ${'shapes'.padEnd(26)} dtype ${'operator'.padEnd(22)}       us     GB/s  GFLOP/s  % peak`)
for (const spec of cases) {
  if (!spec.name.includes(part)) continue
  for (const shape of spec.bench ?? []) {
    const dtypes = shape.dtypes ?? (spec.dtypes ?? ['f32', 'bf16']).filter((dtype) => dtype === 'f32' || dtype === 'bf16')
    for (const dtype of dtypes) {
      if (onlyDType && dtype !== onlyDType) continue
      const sizes = shape.inputs.map((input) => (input ? ('shape' in input ? input.shape : input).join('x') : '-')).join(' ')
      for (const entry of await measure(spec, shape, dtype)) {
        const seconds = entry.seconds / entry.calls
        const bytes = (entry.bytesRead + entry.bytesWritten) / entry.calls
        const [gigabytes, gigaflops] = [bytes / seconds / 1e9, entry.flops / entry.calls / seconds / 1e9]
        const share = shareOf(gigabytes, gigaflops, dtype)
        const numbers = [seconds * 1e6, gigabytes, gigaflops, share]
        results.push({ case: spec.name, shapes: sizes, dtype, operator: entry.op, seconds, gigabytes, gigaflops, share })
        const head = `${spec.name.padEnd(24)} ${sizes.padEnd(26)} ${dtype.padEnd(5)} ${entry.op.padEnd(22)}`
        console.log(`${head} ${numbers.map(text).join(' ')}`)
      }
    }
  }
}
mkdirSync('bench/results', { recursive: true })
const machine = { device: device.name, isa: addon.buildInfo().isa, threads: addon.threads(), ...peaks }
writeFileSync('bench/results/ops.json', JSON.stringify({ machine, results }, null, 2))
