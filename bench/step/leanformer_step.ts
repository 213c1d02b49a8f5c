// Our side of `npm run bench -- step`: a process with the commands of torch_step.py, one JSON object a line in and out.
// Beyond those, {"cmd": "profile", "n": 3} trains n steps and gives their seconds, those in which the device waited, and the device's operators.
import { createInterface } from 'node:readline'
import { backward } from '../../lib/autograd/backward'
import { withCheapRemade } from '../../lib/autograd/tape'
import { Bert } from '../../lib/models/bert'
import { generate } from '../../lib/models/generate'
import { GPT } from '../../lib/models/gpt'
import { Llama } from '../../lib/models/llama'
import { addon } from '../../lib/native/binding'
import { clipGradNorm } from '../../lib/ops/clip'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import { Offload } from '../../lib/techniques/offload'
import { getDevice } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { loadParameters } from '../../lib/train/pretrained'
import type { Workload } from './workloads'

interface Setup extends Workload {
  precision: 'f32' | 'bf16'
  threads: number
  /** The optimiser's state is in a file between updates. */
  offload: boolean
  weights?: string
}

const device = getDevice('cpu')
const cpuMs = () => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

/** The stream of tokens that bench/README.md defines. */
function token(i: number, vocab: number): number {
  return (Math.imul(i, 2654435761 | 0) >>> 8) % vocab
}

function buildModel({ model, layers, width, heads, kv_heads: kvHeads, hidden, context, vocab }: Setup): GPT | Bert {
  const shape = { layers, width, heads, hidden, context, vocab }
  if (model === 'bert') return new Bert({ ...shape, normEps: 1e-12 })
  return model === 'llama' ? new Llama({ ...shape, kvHeads, normEps: 1e-5, tiedHead: true }) : new GPT({ ...shape, kvHeads })
}

class Run {
  private readonly model: GPT | Bert
  private readonly optimizer: AdamW
  private position = 0

  constructor(private readonly setup: Setup) {
    addon.setThreads(setup.threads)
    this.model = buildModel(setup)
    this.optimizer = new AdamW(decayGroups(this.model.namedParameters(), 0.1), { beta1: 0.9, beta2: 0.99, eps: 1e-8 })
    if (setup.offload) new Offload(this.model, this.optimizer, { state: 'disk' })
  }

  async prepare(): Promise<void> {
    const { weights, precision } = this.setup
    if (weights) await loadParameters(weights, this.model)
    this.model.setComputeDType(precision)
    await device.synchronize()
  }

  private loss() {
    const { batch, context, vocab, model } = this.setup
    const size = batch * context
    const part = (shift: number) => Int32Array.from({ length: size }, (_, i) => token(this.position + i + shift, vocab))
    const [ids, targets] = [part(0), part(1)]
    this.position += size
    // A language model of masked tokens guesses one in seven; where it must, it sees token 0.
    if (model === 'bert') {
      for (let i = 0; i < size; ++i) {
        targets[i] = i % 7 === 3 ? ids[i] : -1
        if (i % 7 === 3) ids[i] = 0
      }
    }
    return this.model.loss(tensor(ids, [batch, context]), tensor(targets, [batch, context]))
  }

  async step(): Promise<{ ms: number; cpu: number; loss: number }> {
    const [start, cpu] = [performance.now(), cpuMs()]
    const { value } = scope(() => {
      // As checkpointing's policy=selective: the same bits in fewer bytes, for one or two hundredths of the time.
      const loss = withCheapRemade(() => this.loss())
      backward(loss)
      const { clip } = clipGradNorm(this.model.parameters().map((parameter) => parameter.grad!), { maxNorm: 1 })
      this.optimizer.step(1e-3, clip)
      this.optimizer.zeroGrad()
      return { value: loss.item() }
    })
    const loss = await value
    await device.synchronize()
    return { ms: performance.now() - start, cpu: cpuMs() - cpu, loss }
  }

  async generate(tokens: number): Promise<{ ms: number; cpu: number; loss: number }> {
    const prompt = Array.from({ length: tokens }, (_, i) => token(i, this.setup.vocab))
    const [start, cpu] = [performance.now(), cpuMs()]
    let last = 0
    for await (const id of generate(this.model as GPT, prompt, { maxTokens: tokens, temperature: 0 })) last = id
    return { ms: performance.now() - start, cpu: cpuMs() - cpu, loss: last }
  }
}

let run: Run | null = null

async function answer(command: { cmd: string; n?: number } & Setup): Promise<unknown> {
  if (command.cmd === 'setup') {
    run = new Run(command)
    await run.prepare()
    return { ok: true, isa: addon.buildInfo().isa, threads: addon.threads() }
  }
  if (!run) throw new Error(`${command.cmd}: send setup first`)
  if (command.cmd === 'step' || command.cmd === 'generate') {
    const results = []
    const once = () => (command.cmd === 'step' ? run!.step() : run!.generate(command.generate!))
    for (let i = 0; i < command.n!; ++i) results.push(await once())
    return { ms: results.map(({ ms }) => ms), cpu_ms: results.map(({ cpu }) => cpu), losses: results.map(({ loss }) => loss) }
  }
  if (command.cmd === 'profile') {
    await run.step()
    device.profile(true)
    const before = device.stats().waitedSeconds
    const start = performance.now()
    for (let i = 0; i < command.n!; ++i) await run.step()
    const seconds = (performance.now() - start) / 1000
    return { seconds, waited: device.stats().waitedSeconds - before, operators: device.profile() }
  }
  if (command.cmd === 'memory') return { peak_mib: process.resourceUsage().maxRSS / 1024 }
  throw new Error(`${command.cmd} is not a command: setup, step, generate, profile, memory, quit`)
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  if (command.cmd === 'quit') break
  let result: unknown
  try {
    result = await answer(command)
  } catch (error) {
    result = { error: String(error) } // the other side decides what a failure means
  }
  process.stdout.write(`${JSON.stringify(result)}\n`)
}
process.exit(0)
