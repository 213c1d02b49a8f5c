// Whole training steps, ours and PyTorch's in turns: same model, same starting weights, same tokens, both orders, medians.
//
//   npm run bench -- step [workload] [--precision f32|bf16] [--rounds 8] [--steps 3] [--no-compile]
//
// A step is forward, backward, clipping, AdamW and reading the loss. Writes bench/results/step.json.
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { createInterface, type Interface } from 'node:readline'
import { parseArgs } from 'node:util'
import { backward } from '../../lib/autograd/backward'
import { GPT } from '../../lib/models/gpt'
import { addon } from '../../lib/native/binding'
import { clipGradNorm } from '../../lib/ops/clip'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import { getDevice } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { median } from '../../lib/train/format'
import { fromHost } from '../../lib/train/host_tensor'
import { readSafetensors } from '../../lib/train/safetensors'

const workloads = {
  gpt6x384: { layers: 6, width: 384, heads: 6, context: 256, batch: 8, vocab: 256 },
  gpt4x128: { layers: 4, width: 128, heads: 4, context: 64, batch: 12, vocab: 65 },
}
type Workload = (typeof workloads)[keyof typeof workloads]

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    precision: { type: 'string' },
    rounds: { type: 'string', default: '8' },
    steps: { type: 'string', default: '3' },
    'no-compile': { type: 'boolean', default: false },
  },
})
const rounds = Number(values.rounds)
const stepsPerRound = Number(values.steps)
const python = process.env.LEANFORMER_PYTHON
const folder = mkdtempSync(path.join(os.tmpdir(), 'leanformer-bench-'))

interface Timed {
  ms: number[]
  losses: number[]
}
interface Side {
  name: string
  step(n: number): Promise<Timed>
  close(): void
}

/** The stream of tokens that bench/README.md defines. */
function token(i: number, vocab: number): number {
  return (Math.imul(i, 2654435761 | 0) >>> 8) % vocab
}

async function ours(workload: Workload, precision: 'f32' | 'bf16', weights: string | null): Promise<Side> {
  const { batch, context, vocab } = workload
  const model = new GPT({ ...workload })
  const device = getDevice('cpu')
  if (weights) {
    const { tensors } = await readSafetensors(weights)
    scope(() => model.loadState(new Map(Object.entries(tensors).map(([name, host]) => [name, fromHost(host, device)]))))
  }
  model.setComputeDType(precision)
  const optimizer = new AdamW(decayGroups(model.namedParameters(), 0.1), { beta1: 0.9, beta2: 0.99, eps: 1e-8 })
  let position = 0
  const oneStep = () =>
    scope(() => {
      const size = batch * context
      const part = (shift: number) => Int32Array.from({ length: size }, (_, i) => token(position + i + shift, vocab))
      const loss = model.loss(tensor(part(0), [batch, context]), tensor(part(1), [batch, context]))
      position += size
      backward(loss)
      const { clip } = clipGradNorm(model.parameters().map((parameter) => parameter.grad!), { maxNorm: 1 })
      optimizer.step(1e-3, clip)
      optimizer.zeroGrad()
      return { value: loss.item() }
    })
  return {
    name: 'leanformer',
    async step(n) {
      const ms: number[] = []
      const losses: number[] = []
      for (let i = 0; i < n; ++i) {
        const start = performance.now()
        losses.push(await oneStep().value)
        await device.synchronize()
        ms.push(performance.now() - start)
      }
      return { ms, losses }
    },
    close() {
      model.dispose()
      optimizer.dispose()
    },
  }
}

class Baseline implements Side {
  private readonly lines: AsyncIterator<string>

  private constructor(
    readonly name: string,
    private readonly child: ChildProcessWithoutNullStreams,
    reader: Interface,
  ) {
    this.lines = reader[Symbol.asyncIterator]()
  }

  static async start(workload: Workload, precision: string, compile: boolean, weights: string, save: boolean): Promise<Baseline> {
    const script = path.join('bench', 'step', 'torch_step.py')
    const child = spawn(python!, [script], { stdio: ['pipe', 'pipe', 'inherit'] }) as unknown as ChildProcessWithoutNullStreams
    const side = new Baseline(compile ? 'torch.compile' : 'torch eager', child, createInterface({ input: child.stdout }))
    await side.ask({ cmd: 'setup', ...workload, precision, compile, threads: addon.threads(), weights: save ? undefined : weights, seed: 0 })
    if (save) await side.ask({ cmd: 'save', path: weights })
    return side
  }

  private async ask(command: object): Promise<Timed> {
    this.child.stdin.write(JSON.stringify(command) + '\n')
    const { value, done } = await this.lines.next()
    if (done) throw new Error(`${this.name} ended`)
    const answer = JSON.parse(value)
    if (answer.error) throw new Error(`${this.name}: ${answer.error}`)
    return answer
  }

  step(n: number): Promise<Timed> {
    return this.ask({ cmd: 'step', n })
  }

  close(): void {
    this.child.stdin.write(JSON.stringify({ cmd: 'quit' }) + '\n')
  }
}

async function compare(name: string, workload: Workload, precision: 'f32' | 'bf16') {
  const sides: Side[] = []
  const weights = path.join(folder, `${name}.safetensors`)
  if (python) {
    sides.push(await Baseline.start(workload, precision, false, weights, true))
    if (!values['no-compile']) sides.push(await Baseline.start(workload, precision, true, weights, false))
  }
  sides.unshift(await ours(workload, precision, python ? weights : null))
  const times = sides.map(() => [] as number[])
  const losses = sides.map(() => [] as number[])
  for (let round = 0; round < rounds; ++round) {
    const order = sides.map((_, i) => i)
    if (round % 2) order.reverse()
    for (const i of order) {
      const { ms, losses: seen } = await sides[i].step(stepsPerRound)
      // The first step after another process had the caches is not counted.
      times[i].push(...(ms.length > 1 ? ms.slice(1) : ms))
      losses[i].push(...seen)
    }
  }
  for (const side of sides) side.close()
  const own = median(times[0])
  return sides.map((side, i) => ({
    workload: name,
    precision,
    side: side.name,
    median_ms: median(times[i]),
    min_ms: Math.min(...times[i]),
    samples: times[i].length,
    ratio: median(times[i]) / own,
    first_loss: losses[i][0],
    last_loss: losses[i][losses[i].length - 1],
    largest_loss_difference: Math.max(...losses[i].map((loss, k) => Math.abs(loss - losses[0][k]))),
  }))
}

if (!python) console.error('LEANFORMER_PYTHON is not set: no PyTorch to compare with, see bench/README.md')
const results = []
for (const [name, workload] of Object.entries(workloads)) {
  if (positionals.length && !positionals.includes(name)) continue
  for (const precision of ['f32', 'bf16'] as const) {
    if (values.precision && values.precision !== precision) continue
    const rows = await compare(name, workload, precision)
    results.push(...rows)
    for (const row of rows) {
      console.log(
        `${name.padEnd(9)} ${precision.padEnd(4)} ${row.side.padEnd(13)} median ${row.median_ms.toFixed(2).padStart(8)} ms` +
          `  min ${row.min_ms.toFixed(2).padStart(8)} ms  ${row.ratio.toFixed(2)}x  loss ${row.last_loss.toFixed(5)}` +
          `  (${row.samples} steps, losses within ${row.largest_loss_difference.toExponential(1)})`,
      )
    }
  }
}
mkdirSync(path.join('bench', 'results'), { recursive: true })
writeFileSync(path.join('bench', 'results', 'step.json'), JSON.stringify({ machine: { isa: addon.buildInfo().isa, threads: addon.threads(), ...addon.measurePeaks() }, results }, null, 2))
rmSync(folder, { recursive: true, force: true })
