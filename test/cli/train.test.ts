import { EventEmitter } from 'node:events'
import * as fs from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'

import { main, type Commands } from '../../lib/cli/program'
import { openRun, trainCommand, type Terminal, type TrainerLike, type TrainingFactory } from '../../lib/cli/train'
import type { TextDataset } from '../../lib/data/tokens'
import { LeanformerError } from '../../lib/native/errors'
import type { Checkpoint } from '../../lib/train/checkpoint_file'
import type { StepMetrics } from '../../lib/train/metrics'

// A stand-in for the trainer: its one weight is a hash of all the data it was shown, so that any step that is left out,
// repeated or fed other data shows. Like the real one it may be a step ahead of what it has reported.
class FakeTrainer implements TrainerLike {
  step = 0
  weight = 1
  failAt = Infinity

  constructor(
    private readonly data: TextDataset,
    private readonly steps: number,
    private readonly evalEvery: number,
    private readonly ahead = 1,
  ) {}

  async *train({ signal }: { signal?: AbortSignal } = {}): AsyncGenerator<StepMetrics> {
    const pending: StepMetrics[] = []
    while (this.step < this.steps && !signal?.aborted) {
      const { inputs, tokens } = this.data.train.batch(this.step)
      for (const id of inputs) this.weight = Math.imul(this.weight ^ id, 0x01000193) >>> 0
      this.step++
      if (this.step >= this.failAt)
        throw new LeanformerError('ERR_NON_FINITE', `step ${this.step}: the loss (NaN) is not finite`)
      const evaluates = this.step === this.steps || this.step % this.evalEvery === 0
      pending.push({
        step: this.step,
        loss: 5 / this.step,
        lr: 0.1,
        gradNorm: 1,
        tokens,
        tokensPerSecond: 1000,
        stepMs: 2,
        flops: 10,
        liveBytes: 50,
        peakBytes: 100,
      })
      while (pending.length > (evaluates ? 0 : this.ahead)) {
        const metrics = pending.shift()!
        if (evaluates && pending.length === 0) metrics.valLoss = (await this.evaluate()).loss
        yield metrics
      }
    }
    yield* pending
  }

  evaluate() {
    return Promise.resolve({ loss: 2 + (this.weight % 1000) / 1000, tokens: this.data.validation.targetCount })
  }

  state(): Promise<Checkpoint> {
    const data = new Uint8Array(new Float64Array([this.weight]).buffer)
    return Promise.resolve({ tensors: { 'model.w': { dtype: 'f64', shape: [], data } }, state: { step: this.step } })
  }

  load({ tensors, state }: Checkpoint): void {
    this.weight = new Float64Array(tensors['model.w']!.data.buffer)[0]!
    this.step = (state as { step: number }).step
  }
}

class Sink extends Writable {
  text = ''
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString()
    done()
  }
}

class FakeTerminal implements Terminal {
  stdout = new Sink()
  stderr = new Sink()
  env = {}
  signals = new EventEmitter()
  exits: number[] = []
  onInterrupt(handler: (signal: 'SIGINT' | 'SIGTERM') => void) {
    this.signals.on('signal', handler)
    return () => void this.signals.off('signal', handler)
  }
  exit(code: number) {
    this.exits.push(code)
  }
  get json(): Record<string, unknown>[] {
    return this.stdout.text
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Record<string, unknown>)
  }
}

let dir: string
let text: string
beforeEach(async () => {
  dir = await fs.mkdtemp(join(tmpdir(), 'leanformer-train-'))
  text = join(dir, 'text.txt')
  await fs.writeFile(text, 'It is not down in any map; true places never are. '.repeat(40))
})
afterEach(() => fs.rm(dir, { recursive: true }))

const small = () => ({ text, steps: 20, evalEvery: 5, context: 8, batch: 2, out: join(dir, 'run'), json: true })

/** Runs a command; `change` may alter the trainer before it starts. */
async function train(
  flags: Record<string, unknown>,
  change: (trainer: FakeTrainer, terminal: FakeTerminal) => void = () => {},
) {
  const terminal = new FakeTerminal()
  let trainer!: FakeTrainer
  let disposed = 0
  const factory: TrainingFactory = (config, data) => {
    trainer = new FakeTrainer(data, config.steps, config.evalEvery)
    change(trainer, terminal)
    return Promise.resolve({ trainer, device: 'cpu', parameters: 1, peakFlops: 1e4, dispose: () => void disposed++ })
  }
  const code = await trainCommand(flags, factory, terminal)
  expect(disposed).toBe(1)
  return { code, terminal, trainer }
}

const metricSteps = async (): Promise<number[]> =>
  (await fs.readFile(join(dir, 'run', 'metrics.jsonl'), 'utf8'))
    .trim()
    .split('\n')
    .map((line) => (JSON.parse(line) as { step: number }).step)

const upTo = (n: number) => Array.from({ length: n }, (_, i) => i + 1)

test('--json: a line a step and a last one on stdout, and a whole run folder', async () => {
  const { code, terminal, trainer } = await train(small())
  expect(code).toBe(0)
  const lines = terminal.json
  expect(lines).toHaveLength(21)
  expect(lines.slice(0, 20).map((l) => l.step)).toEqual(upTo(20))
  expect(lines[4]).toMatchObject({
    event: 'step',
    grad_norm: 1,
    tokens_per_second: 1000,
    peak_bytes: 100,
    val_loss: expect.any(Number),
  })
  expect(lines[5]).not.toHaveProperty('val_loss')
  const valLoss = (await trainer.evaluate()).loss
  expect(lines[20]).toEqual({
    event: 'done',
    train_loss: 0.25,
    val_loss: valLoss,
    val_bits_per_byte: valLoss / Math.LN2,
    tokens_per_second: 1000,
    step_ms_median: 2,
    peak_bytes: 100,
    checkpoint: join(dir, 'run', 'checkpoints', 'step-000020'),
  })
  expect(terminal.stderr.text).toBe('')
  expect((await fs.readdir(join(dir, 'run'))).sort()).toEqual([
    'checkpoints',
    'config.json',
    'metrics.jsonl',
    'report.html',
    'tokenizer.json',
  ])
  expect(await metricSteps()).toEqual(upTo(20))
  expect((await fs.readdir(join(dir, 'run', 'checkpoints'))).sort()).toEqual(['step-000015', 'step-000020'])
  const config = JSON.parse(await fs.readFile(join(dir, 'run', 'config.json'), 'utf8')) as {
    values: object
    origins: object
  }
  expect(config.values).toMatchObject({ steps: 20, context: 8, width: 128 })
  expect(config.origins).toMatchObject({ steps: 'flag', width: 'default' })
})

test('without --json stdout has the final numbers and stderr the progress', async () => {
  const { terminal } = await train({ ...small(), json: false })
  expect(terminal.stdout.text).toMatch(/training loss +0\.2500\nvalidation loss +2\.\d+, \d\.\d+ bits per byte\n/)
  expect(terminal.stdout.text).toContain(`report           ${join(dir, 'run', 'report.html')}`)
  expect(terminal.stderr.text).toContain('--steps 20 (flag)')
  expect(terminal.stderr.text).toMatch(
    /step 5\/20 {2}loss 1\.0000 {2}val 2\.\d+ {2}1\.00k tok\/s {2}50% of peak {2}100 B {2}0s left\n/,
  )
  expect(terminal.stderr.text).not.toContain('\x1b')
})

test('^C ends at a step, saves, says where, and exits with 130; --resume then ends as the unbroken run', async () => {
  const whole = await train({ ...small(), out: join(dir, 'whole') })
  const { code, terminal, trainer } = await train(small(), (_, term) => {
    const write = term.stdout.write.bind(term.stdout)
    term.stdout.write = ((chunk: string) => {
      if (chunk.includes('"step":7,')) term.signals.emit('signal', 'SIGINT')
      return write(chunk)
    }) as never
  })
  expect(code).toBe(130)
  expect(trainer.step).toBeLessThan(10)
  expect(terminal.exits).toEqual([])
  const saved = join(dir, 'run', 'checkpoints', `step-${String(trainer.step).padStart(6, '0')}`)
  expect(terminal.stderr.text).toContain(`stopped after step ${trainer.step}; checkpoint ${saved}`)
  expect(terminal.stderr.text).toContain(`--resume ${join(dir, 'run')}`)
  expect(terminal.json.at(-1)).toMatchObject({ event: 'step', step: trainer.step })
  const rest = await train({ resume: join(dir, 'run') })
  expect(rest.code).toBe(0)
  expect(rest.trainer.weight).toBe(whole.trainer.weight)
  expect(rest.terminal.json[0]!.step).toBe(trainer.step + 1)
  expect(rest.terminal.json.at(-1)).toMatchObject({ event: 'done', val_loss: whole.terminal.json.at(-1)!.val_loss })
  expect(await metricSteps()).toEqual(upTo(20))
})

test('a second ^C exits at once', async () => {
  const { terminal } = await train(small(), (_, term) => {
    const write = term.stdout.write.bind(term.stdout)
    term.stdout.write = ((chunk: string) => {
      if (/"step":[34],/.test(chunk)) term.signals.emit('signal', 'SIGINT')
      return write(chunk)
    }) as never
  })
  expect(terminal.exits).toEqual([130])
})

test('a run that fails between checkpoints resumes to the same end, with no step logged twice', async () => {
  const whole = await train({ ...small(), out: join(dir, 'whole') })
  for (const failAt of [7, 10, 12, 13]) {
    await expect(train({ ...small(), saveEvery: 4 }, (t) => (t.failAt = failAt))).rejects.toMatchObject({
      code: 'ERR_NON_FINITE',
    })
    expect(await fs.readFile(join(dir, 'run', 'report.html'), 'utf8')).toContain('has not finished')
    const rest = await train({ resume: join(dir, 'run') })
    expect(rest.trainer.weight).toBe(whole.trainer.weight)
    expect(await metricSteps()).toEqual(upTo(20))
    await fs.rm(join(dir, 'run'), { recursive: true })
  }
})

test('a damaged newest checkpoint is named, and the one before it is used', async () => {
  const whole = await train({ ...small(), out: join(dir, 'whole') })
  await expect(train({ ...small(), saveEvery: 5 }, (t) => (t.failAt = 14))).rejects.toMatchObject({
    code: 'ERR_NON_FINITE',
  })
  const newest = join(dir, 'run', 'checkpoints', 'step-000010')
  await fs.truncate(join(newest, 'model.safetensors'), 9)
  const { terminal, trainer } = await train({ resume: join(dir, 'run') })
  expect(terminal.stderr.text).toContain(`warning: checkpoint: ${newest} is refused: model.safetensors has 9 bytes`)
  expect(terminal.json[0]!.step).toBe(6)
  expect(trainer.weight).toBe(whole.trainer.weight)
})

test('a finished run can be resumed with more steps, or with none left', async () => {
  await train(small())
  const again = await train({ resume: join(dir, 'run') })
  expect(again.terminal.json).toEqual([
    expect.objectContaining({ event: 'done', train_loss: null, val_loss: expect.any(Number) }),
  ])
  const more = await train({ resume: join(dir, 'run'), steps: 25, warmup: undefined })
  expect(more.terminal.json.map((l) => l.step).slice(0, 5)).toEqual([21, 22, 23, 24, 25])
  const { config, checkpoint, tokenizer } = await openRun(join(dir, 'run'))
  expect([config.steps, checkpoint.step, tokenizer.name]).toEqual([25, 25, 'bytes'])
})

test('a run does not go on with another text', async () => {
  await train({ ...small(), steps: 5 })
  await fs.appendFile(text, '!')
  await expect(train({ resume: join(dir, 'run'), steps: 9 })).rejects.toMatchObject({
    code: 'ERR_DATA',
    message: expect.stringContaining(`the text ${text} has changed`),
  })
})

test('a folder that holds a run is not written over, and one that is not a run cannot be resumed', async () => {
  await train(small())
  await expect(train(small())).rejects.toMatchObject({ code: 'ERR_OPTION', hint: expect.stringContaining('--resume') })
  await expect(train({ resume: dir })).rejects.toMatchObject({
    code: 'ERR_CHECKPOINT',
    message: expect.stringContaining('config.json'),
  })
})

describe('the command line', () => {
  const run = async (...argv: string[]) => {
    const calls: [string, Record<string, unknown>][] = []
    const record = (name: string) => (flags: Record<string, unknown>) => {
      calls.push([name, flags])
      return Promise.resolve(7)
    }
    let stderr = ''
    const names = ['train', 'sample', 'info', 'bench', 'demo'] as const
    const commands = Object.fromEntries(names.map((name) => [name, record(name)])) as unknown as Commands
    const code = await main(argv, { write: (t: string) => (stderr += t) }, commands)
    return { code, calls, stderr }
  }

  test('hands on what was given, by its kind, and nothing else', async () => {
    const { code, calls } = await run(
      'train',
      '--lr',
      '1e-3',
      '--no-tied-head',
      '--bias',
      '--technique',
      'a',
      '--technique',
      'b',
      '--min-lr',
      '0',
      '--text',
      '5',
    )
    expect(code).toBe(7)
    expect(calls).toEqual([
      ['train', { lr: 0.001, tiedHead: false, bias: true, technique: ['a', 'b'], minLr: 0, text: '5' }],
    ])
    expect((await run('sample', '--run', 'x', '--top-k', '5')).calls).toEqual([['sample', { run: 'x', topK: 5 }]])
    expect((await run('train')).calls).toEqual([['train', {}]])
    expect((await run('demo', '--steps', '5')).calls).toEqual([['demo', { steps: 5 }]])
    expect((await run('bench', 'step', '--profile', '--steps', '5')).calls).toEqual([['bench', { steps: 5 }]])
    expect((await run('bench', 'stop')).stderr).toContain("'stop' is invalid")
  })

  test('an option that is not one, or not a number, is a coded error with exit code 2', async () => {
    const unknown = await run('train', '--stpes', '5')
    expect(unknown).toMatchObject({ code: 2, calls: [] })
    expect(unknown.stderr).toBe("error ERR_OPTION: unknown option '--stpes'\n  hint: did you mean --steps?\n")
    const letters = await run('train', '--steps', 'many')
    expect(letters).toMatchObject({
      code: 2,
      stderr: 'error ERR_OPTION: --steps many is not a number\n  hint: give an integer from 1\n',
    })
    expect((await run('trian')).stderr).toContain("unknown command 'trian'")
    expect((await run('train', '--steps')).stderr).toContain('argument missing')
    expect((await run('train', 'extra')).code).toBe(2)
  })
})
