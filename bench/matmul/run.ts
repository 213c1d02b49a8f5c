// Matrix products against what the machine was measured to do, and against PyTorch's, in turns.
//
//   npm run bench -- matmul [part of a name] [--precision f32|bf16] [--threads 2] [--rounds 3]
//
// A line gives GFLOP/s, the share of the machine's ceiling in that precision (measured just before it), and PyTorch's seconds by ours. The
// fastest of all rounds counts on each side, and of the ceiling. Results have the inputs' format. Writes bench/results/matmul.json.
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { addon } from '../../lib/native/binding'
import { noGrad } from '../../lib/autograd/tape'
import { randn } from '../../lib/ops/random'
import { matmul } from '../../lib/ops/matmul'
import { getDevice } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { Side } from '../step/side'
import { shapes, type ProductShape } from './shapes'

const secondsOfTurn = 0.15
// Short ones, as the ceiling's are, so that both find the moments when nothing else runs.
const batches = 20

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { precision: { type: 'string' }, threads: { type: 'string' }, rounds: { type: 'string', default: '3' } },
})
const threads = Number(values.threads ?? addon.threads())
addon.setThreads(threads)
const device = getDevice('cpu')
const python = process.env.LEANFORMER_PYTHON
const torch = python ? new Side('torch', python, [path.join('bench', 'matmul', 'torch_matmul.py')]) : null
if (!torch) console.error('LEANFORMER_PYTHON is not set: no PyTorch to compare with, see bench/README.md')

/** Seconds of one product: the fastest of several batches of calls. */
function measure({ m, n, k, batch, transposeA, transposeB }: ProductShape, dtype: 'f32' | 'bf16'): number {
  const lead = batch > 1 ? [batch] : []
  return scope(() =>
    noGrad(() => {
      const a = randn([...lead, ...(transposeA ? [k, m] : [m, k])], { dtype })
      const b = randn([...lead, ...(transposeB ? [n, k] : [k, n])], { dtype })
      const calls = (count: number) => {
        const start = performance.now()
        for (let i = 0; i < count; ++i) matmul(a, b, { transposeA, transposeB }).dispose()
        device.stats() // waits
        return (performance.now() - start) / 1000
      }
      // Until a batch is long enough, which also warms up: the first calls say little about short ones. PyTorch's side warms up too.
      let count = 1
      while (calls(count) < secondsOfTurn / batches) count *= 2
      return Math.min(...Array.from({ length: batches }, () => calls(count) / count))
    }),
  )
}

const results = []
for (const precision of ['f32', 'bf16'] as const) {
  if (values.precision && values.precision !== precision) continue
  for (const shape of shapes) {
    const { name, m, n, k, batch, transposeA, transposeB, large } = shape
    if (positionals.length && !positionals.some((part) => name.includes(part))) continue
    let [own, theirs, ceiling] = [Infinity, Infinity, 0]
    for (let round = 0; round < Number(values.rounds); ++round) {
      const peaks = addon.measurePeaks()
      ceiling = Math.max(ceiling, precision === 'bf16' ? peaks.bf16Gflops : peaks.f32Gflops)
      own = Math.min(own, measure(shape, precision))
      if (!torch) continue
      const asked = { m, n, k, batch, transpose_a: transposeA, transpose_b: transposeB, precision, threads, seconds: secondsOfTurn, batches }
      theirs = Math.min(theirs, (await torch.ask<{ seconds: number }>(asked)).seconds)
    }
    const gflops = (2e-9 * batch * m * n * k) / own
    const row = { name, m, n, k, batch, transposeA, transposeB, precision, large, gflops, share: gflops / ceiling, ratio: theirs / own }
    results.push(row)
    console.log(
      `${precision.padEnd(4)} ${name.padEnd(32)} ${`${batch > 1 ? `${batch} x ` : ''}${m} x ${n} x ${k}`.padEnd(22)}` +
        `${gflops.toFixed(1).padStart(7)} GFLOP/s ${(100 * row.share).toFixed(0).padStart(4)} % of the ceiling  ${torch ? `${row.ratio.toFixed(2)}x PyTorch` : ''}`,
    )
  }
}
torch?.close()
mkdirSync(path.join('bench', 'results'), { recursive: true })
writeFileSync(path.join('bench', 'results', 'matmul.json'), JSON.stringify({ machine: { isa: addon.buildInfo().isa, threads }, results }, null, 2))
