// kernels: what is measured of heads and stretches adds up to a frontier; the chosen assignment is in the run that is written, and
// sample and --resume use it.
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { Writable } from 'node:stream'
import { kernelsCommand, type KernelsReport } from '../../lib/cli/kernels'
import { sampleCommand } from '../../lib/cli/sample'
import { trainCommand } from '../../lib/cli/train'
import { openModel, startTraining } from '../../lib/cli/training_run'
import type { GPT } from '../../lib/models/gpt'
import { getDevice } from '../../lib/tensor/device'

const shape = { text: 'moby-dick', device: 'cpu', layers: 2, width: 32, heads: 4, kvHeads: 2, context: 16, batch: 4, steps: 30, lr: 5e-3, evalEvery: 30, evalTokens: 512, json: true }

class Text extends Writable {
  text = ''
  override _write(chunk: Buffer, _encoding: string, done: () => void) {
    this.text += chunk.toString()
    done()
  }
}

let folder: string
const at = (name: string) => path.join(folder, name)
const train = (out: string, options: object = {}) => {
  const terminal = { stdout: new Text(), stderr: new Text(), env: {}, onInterrupt: () => () => {}, exit: () => {} }
  return trainCommand('resume' in options ? { json: true, ...options } : { ...shape, out: at(out), ...options }, startTraining, terminal)
}
const own = { device: 'cpu', evalTokens: 512, batches: 2, repeats: 2, points: 5 }
async function measured(run: string, options: object): Promise<KernelsReport> {
  const stdout = new Text()
  expect(await kernelsCommand({ run: at(run), json: true, ...own, ...options }, stdout)).toBe(0)
  return JSON.parse(stdout.text) as KernelsReport
}

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'kernels-'))
  expect(await train('base')).toBe(0)
}, 120_000)
afterAll(() => rm(folder, { recursive: true, force: true }))

test('a chosen assignment is written, sampled from and trained on', async () => {
  const report = await measured('base', { kernel: ['window2', 'favor16', 'int8'], stretches: 2, cost: 'flops', limit: 0.05, out: at('mixed') })
  // Layers x key-value heads x stretches.
  expect(report.units.map(({ unit: { layer, head, from } }) => [layer, head, from])).toEqual(
    [0, 1].flatMap((layer) => [0, 1].flatMap((head) => [0, 8].map((from) => [layer, head, from]))))
  for (const { unit, choices } of report.units) {
    const [softmax, near, favor, int8] = choices
    expect([softmax.error, softmax.change]).toEqual([0, 0])
    expect(int8.error).toBeLessThan(0.05)
    for (const { error } of [near, favor]) expect(error).toBeGreaterThan(int8.error)
    // A window of 2 costs less; early queries have less to lose.
    if (unit.from) expect(near.cost).toBeLessThan(softmax.cost)
  }
  const { frontier, single, chosen } = report
  expect(frontier.length).toBe(5)
  expect(single.map(({ kernels }) => kernels[0])).toEqual(['softmax', 'window2', 'favor16', 'int8'])
  for (let i = 1; i < frontier.length; ++i) {
    expect(frontier[i].cost).toBeLessThan(frontier[i - 1].cost)
    expect(frontier[i].change).toBeGreaterThanOrEqual(frontier[i - 1].change)
  }
  expect([single[0].change, single[0].measured]).toEqual([0, 0])
  expect(chosen.measured).toBeLessThanOrEqual(0.05)
  expect(chosen.cost).toBeLessThan(single[0].cost)
  for (const { ms } of [...frontier, ...single, chosen]) expect(ms).toBeGreaterThan(0)

  const config = JSON.parse(await readFile(at('mixed/config.json'), 'utf8')) as { values: { technique: string[] } }
  expect(config.values.technique).toEqual([`multi_kernel:assignment=${chosen.assignment},window=64,features=256,redraw=0`])
  // Opened again, it is the model that was measured: all of its kernels in place, the same loss.
  const { model } = await openModel(at('mixed'), getDevice('cpu'))
  expect((model as unknown as GPT).blocks.every(({ attention }) => attention.kernel !== null)).toBe(true)
  model.dispose()
  const stdout = new Text()
  expect(await sampleCommand({ run: at('mixed'), device: 'cpu', tokens: 8, temperature: 0, prompt: 'The' }, { stdout, stderr: new Text() })).toBe(0)
  expect(stdout.text.startsWith('The')).toBe(true)
  // Training goes on with it: other losses than those of the run as it was.
  const losses = async (name: string) =>
    (await readFile(at(`${name}/metrics.jsonl`), 'utf8')).trim().split('\n').map((line) => (JSON.parse(line) as { step: number; loss: number })).filter(({ step }) => step > 30)
  for (const name of ['mixed', 'base']) expect(await train(name, { resume: at(name), steps: 36 })).toBe(0)
  const [mixed, base] = [await losses('mixed'), await losses('base')]
  expect([mixed.length, base.length]).toEqual([6, 6])
  expect(mixed[0].loss).not.toBe(base[0].loss)
  expect(Math.abs(mixed[0].loss - base[0].loss)).toBeLessThan(0.1)
  // Measured again, what it had chosen is replaced.
  const again = await measured('mixed', { kernel: ['window2'], cost: 'flops', limit: 10 })
  expect(again.chosen.kernels).toEqual(['window2', 'window2', 'window2', 'window2'])
}, 180_000)

test('nothing that loses is chosen under a limit of 0, and the report is for people, too', async () => {
  const stdout = new Text()
  expect(await kernelsCommand({ run: at('base'), ...own, kernel: ['window1'], limit: 0 }, stdout)).toBe(0)
  const rows = stdout.text.split('\n')
  expect(rows.filter((row) => /^\d\.\d +window1 /.test(row)).length).toBe(4)
  expect(stdout.text).toMatch(/chosen .*softmax/)
  expect(stdout.text).toContain('multi_kernel:assignment=')
}, 120_000)

test('what cannot be is refused', async () => {
  const refused = (options: object, message: string) =>
    expect(kernelsCommand({ run: at('base'), ...own, ...options }, new Text())).rejects.toMatchObject({ code: 'ERR_OPTION', message: expect.stringContaining(message) as string })
  await refused({ kernel: ['hash'] }, 'hash is not a kernel')
  await refused({ out: at('base') }, 'the run itself')
  expect(await train('linear', { technique: ['linear_attention'], steps: 2 })).toBe(0)
  await refused({ run: at('linear') }, 'both replace attention')
}, 120_000)
