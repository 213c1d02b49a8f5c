// prune and quantise: smaller models that sample, start other runs, and are what the functions of TypeScript make.
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { Writable } from 'node:stream'
import { pruneCommand, quantiseCommand } from '../../lib/cli/compress'
import { sampleCommand } from '../../lib/cli/sample'
import { trainCommand } from '../../lib/cli/train'
import { openModel, startTraining } from '../../lib/cli/training_run'
import type { GPT } from '../../lib/models/gpt'
import { getDevice } from '../../lib/tensor/device'

const shape = { text: 'moby-dick', device: 'cpu', layers: 3, width: 32, heads: 4, context: 16, batch: 4, steps: 20, lr: 3e-3, evalEvery: 20, evalTokens: 512, json: true }

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
  return trainCommand({ ...shape, out: at(out), ...options }, startTraining, terminal)
}
interface Report {
  before: { parameters: number; bytes: number; loss: number }
  after: Report['before']
}
async function report(command: typeof pruneCommand, run: string, out: string, options: object): Promise<Report> {
  const stdout = new Text()
  expect(await command({ run: at(run), out: at(out), device: 'cpu', evalTokens: 512, json: true, ...options }, stdout)).toBe(0)
  return JSON.parse(stdout.text) as Report
}
async function sampled(run: string): Promise<string> {
  const stdout = new Text()
  expect(await sampleCommand({ run: at(run), device: 'cpu', tokens: 8, temperature: 0, prompt: 'The' }, { stdout, stderr: new Text() })).toBe(0)
  return stdout.text
}

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'compress-'))
  expect(await train('base')).toBe(0)
}, 120_000)
afterAll(() => rm(folder, { recursive: true, force: true }))

test('layers, heads and units go; the smaller model samples, trains on and is sampled again', async () => {
  const { before, after } = await report(pruneCommand, 'base', 'small', { layers: 2, heads: 2, units: 32 })
  expect(after.parameters).toBeLessThan(0.7 * before.parameters)
  expect(after.bytes).toBe(4 * after.parameters)
  expect(after.loss).toBeGreaterThan(before.loss - 0.2)
  const { model } = await openModel(at('small'), getDevice('cpu'))
  const { blocks } = model as unknown as GPT
  expect(blocks.map(({ attention, mlp }) => [attention.heads, mlp.down.shape[1]])).toEqual([[2, 32], [2, 32]])
  model.dispose()
  expect((await sampled('small')).startsWith('The')).toBe(true)
  expect(await train('tuned', { from: at('small') })).toBe(0)
  const losses = (await readFile(at('tuned/metrics.jsonl'), 'utf8')).trim().split('\n').map((line) => (JSON.parse(line) as { loss: number }).loss)
  expect(losses[losses.length - 1]).toBeLessThan(losses[0])
  expect((await sampled('tuned')).startsWith('The')).toBe(true)
  await expect(train('again', { resume: at('small') })).rejects.toMatchObject({ code: 'ERR_OPTION', message: expect.stringContaining('not a training') as string })
}, 180_000)

test('half of the weights are 0, and the shape stays', async () => {
  const { before, after } = await report(pruneCommand, 'base', 'sparse', { sparsity: 0.5 })
  expect(after.parameters).toBe(before.parameters)
  const { model } = await openModel(at('sparse'), getDevice('cpu'))
  const values = await Promise.all([...model.state()].filter(([name]) => /attention\.(qkv|out)\.weight|mlp\.(up|down)\.weight/.test(name)).map(([, value]) => value.toFloat32()))
  const all = values.reduce((n, each) => n + each.length, 0)
  expect(values.reduce((n, each) => n + each.filter((x) => x === 0).length, 0)).toBe(Math.round(all / 2))
  model.dispose()
}, 120_000)

test.each([['8', 0, 'scales', 0.02], ['4', 16, 'scales', 0.2], ['4', 16, 'gptq', 0.2]] as const)('%s bits, groups of %i, by %s: the loss stays, the bytes fall', async (bits, group, method, slack) => {
  const name = `int${bits}-${method}`
  const { before, after } = await report(quantiseCommand, 'base', name, { bits, group, method })
  expect(after.bytes).toBeLessThan(0.75 * before.bytes)
  expect(Math.abs(after.loss - before.loss)).toBeLessThan(slack)
  expect((await sampled(name)).startsWith('The')).toBe(true)
}, 120_000)

test('adapters are merged first', async () => {
  expect(await train('lora', { from: at('base'), technique: ['lora:rank=2,targets=all'] })).toBe(0)
  const { before, after } = await report(pruneCommand, 'lora', 'merged', { sparsity: 0.1 })
  expect(Math.abs(after.loss - before.loss)).toBeLessThan(0.1)
  const { config } = await openModel(at('merged'), getDevice('cpu'))
  expect(config.technique).toEqual([])
}, 120_000)

test('what makes no sense is refused', async () => {
  const refused = (promise: Promise<unknown>, message: RegExp) => expect(promise).rejects.toMatchObject({ code: 'ERR_OPTION', message: expect.stringMatching(message) as string })
  await refused(pruneCommand({ run: at('base'), out: at('x') }), /nothing is to go/)
  await refused(pruneCommand({ run: at('base'), out: at('base'), heads: 1 }), /is the run itself/)
  await refused(pruneCommand({ run: at('base'), out: at('x'), heads: 1, batches: 0 }), /judged on batches/)
  await refused(quantiseCommand({ run: at('base'), out: at('x'), bits: '3' }), /--bits/)
  await refused(quantiseCommand({ run: at('base'), out: at('x'), method: 'gptq', batches: 0 }), /--method gptq/)
  await expect(pruneCommand({ run: at('base'), out: at('x'), heads: 9, device: 'cpu', evalTokens: 64 })).rejects.toMatchObject({ code: 'ERR_ARGUMENT' })
}, 120_000)
