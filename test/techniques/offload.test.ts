// Offloading: where a tensor waits never changes a number; it changes what fits.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { GPTConfig } from '../../lib/models/gpt'
import { decayGroups, type OptimizerEntry } from '../../lib/optim/optimizer'
import { checkpointing } from '../../lib/techniques/checkpointing'
import { lora } from '../../lib/techniques/lora'
import { offload } from '../../lib/techniques/offload'
import { sophiaCurvatureEntry } from '../../lib/techniques/sophia_curvature'
import { stochasticRounding } from '../../lib/techniques/stochastic_rounding'
import type { Technique } from '../../lib/techniques/technique'
import { updateInBackward } from '../../lib/techniques/update_in_backward'
import { getDevice, setDefaultDevice } from '../../lib/tensor/device'
import { keep, scope } from '../../lib/tensor/scope'
import { Pager } from '../../lib/tensor/pager'
import { tensor } from '../../lib/tensor/tensor'
import { Trainer, type Checkpoint, type TrainerOptions } from '../../lib/train/trainer'
import { digest } from '../support/digest'
import { collectGarbage } from '../support/garbage'
import { tinyTrainer, tokenBatch } from '../support/tiny_gpt'

// Tests that want another device name it.
beforeAll(() => setDefaultDevice('cpu'))
beforeAll(collectGarbage)
afterEach(collectGarbage) // refused trainers leave their models
afterEach(async () => {
  getDevice('cpu').setMemoryLimit(0)
  getDevice('cpu').clearError()
  await getDevice('cpu').synchronize()
})

const config: GPTConfig = { vocab: 31, context: 16, layers: 4, width: 64, heads: 4, dropout: 0.1 }

interface Options extends Pick<TrainerOptions, 'precision' | 'accumulate' | 'clip'> {
  techniques?: Technique[]
  entry?: OptimizerEntry
  steps?: number
  device?: string
  config?: GPTConfig
  rows?: number
  /** Bytes above what was live before the model. */
  limit?: number
  load?: Checkpoint
}

/** Every weight and all state of the optimiser. */
const bitsOf = ({ tensors }: Checkpoint) => digest(Object.keys(tensors).sort().map((name) => tensors[name].data))

async function run({ techniques = [], entry, steps = 4, device: name = 'cpu', config: shape = config, rows = 4, limit, load, ...options }: Options = {}) {
  const device = getDevice(name)
  const before = (await device.synchronize()).liveBytes
  if (limit) device.setMemoryLimit(before + limit)
  const adapt = (model: unknown) => techniques.forEach((technique) => technique.adapt?.(model as never))
  const made = tinyTrainer({ config: shape, modelDevice: name, adapt, techniques: entry ? [] : techniques, steps, data: { batch: (i) => tokenBatch(i, rows, 16) }, ...options })
  const { model } = made
  const optimizer = entry ? entry.create(decayGroups(model.namedParameters(), 0.1)) : made.optimizer
  const trainer = entry
    ? new Trainer({ model, optimizer, schedule: () => 1e-3, steps, data: { batch: (i) => tokenBatch(i, rows, 16) }, techniques, ...options })
    : made.trainer
  try {
    if (load) trainer.load(load)
    const losses: number[] = []
    let peak = 0
    for await (const { loss, peakBytes } of trainer.train()) {
      losses.push(loss)
      peak = peakBytes - before
    }
    const weights = name === 'cpu' ? bitsOf(await trainer.state()) : ''
    return { losses, peak, weights, summary: await trainer.summary(), parameters: model.parameterCount() }
  } finally {
    device.setMemoryLimit(0)
    device.clearError()
    model.dispose()
    optimizer.dispose()
    made.optimizer.dispose()
    await device.synchronize()
    expect(device.stats().liveBytes).toBe(before)
  }
}

test('a tensor goes out and comes back, also as a part of another and unasked', async () => {
  const device = getDevice('cpu')
  for (const folder of [tmpdir(), null]) {
    const pager = new Pager(folder)
    const x = keep(tensor(Float32Array.from({ length: 5000 }, (_, i) => i)))
    const part = x.viewAs([10], 100)
    await device.synchronize()
    const before = device.program().liveBytes
    // Of results that failed in an earlier test the program holds what the device never made.
    const failed = before - device.stats().liveBytes
    pager.pageOut(part)
    expect(before - device.program().liveBytes).toBe(20_000)
    expect(device.stats().liveBytes).toBe(device.program().liveBytes - failed)
    expect([...(await part.data())]).toEqual(Array.from({ length: 10 }, (_, i) => 100 + i))
    expect(device.program().liveBytes).toBe(before - 20_000)
    pager.prefetch(x)
    const doubled = scope(() => tensor([0]) && part.viewAs([10]))
    pager.pageIn(x)
    expect((await x.data())[4999]).toBe(4999)
    expect(device.stats().liveBytes).toBe(before - failed)
    pager.pageOut(x)
    pager.pageOut(x)
    pager.close()
    part.dispose()
    doubled.dispose()
    x.dispose()
    expect(device.stats().liveBytes).toBe(device.program().liveBytes - failed)
  }
})

/** The entries of lib/optim. */
function optimizers(): OptimizerEntry[] {
  const folder = path.join(__dirname, '..', '..', 'lib', 'optim')
  return readdirSync(folder).flatMap((file) => {
    const found = Object.values(jest.requireActual<Record<string, unknown>>(path.join(folder, file)))
    return found.filter((value): value is OptimizerEntry => (value as { kind?: unknown } | null)?.kind === 'optimizer')
  })
}

test('every optimiser: state on disk in pieces, with the bits of state in memory', async () => {
  let count = 0
  for (const entry of optimizers()) {
    const curvature = entry.name === 'sophia' ? [sophiaCurvatureEntry.create({})] : []
    const plain = await run({ entry, steps: 3, techniques: curvature })
    const away = await run({ entry, steps: 3, techniques: [...curvature, offload.create({ piece: '20000' })] })
    ++count
    expect([entry.name, away.losses]).toEqual([entry.name, plain.losses])
    expect([entry.name, away.weights]).toEqual([entry.name, plain.weights])
  }
  expect(count).toBeGreaterThan(10)
}, 60_000)

test.each([
  ['gradients', { gradients: 'disk' }, 1], ['activations', { state: 'none', activations: 'disk' }, 1], ['everything', { gradients: 'disk', activations: 'disk' }, 2],
] as const)('%s on disk: the bits of a run in memory, alone and with checkpointing; meta knows the peak', async (_, settings, accumulate) => {
  for (const precision of ['f32', 'bf16'] as const) {
    const plain = await run({ accumulate, precision })
    for (const policy of ['none', 'sqrt'] as const) {
      const techniques = () => [offload.create({ ...settings, piece: '20000' }), checkpointing.create({ policy })]
      const away = await run({ accumulate, precision, techniques: techniques() })
      expect(away.losses).toEqual(plain.losses)
      expect(away.weights).toEqual(plain.weights)
      expect(away.peak).toBeLessThanOrEqual(plain.peak)
      expect((await run({ accumulate, precision, device: 'meta', techniques: techniques() })).peak).toBe(away.peak)
    }
  }
}, 60_000)

test('activations on disk: the peak is that of few layers', async () => {
  const shape = { config: { ...config, layers: 8, width: 32 }, rows: 16, device: 'meta' }
  const [plain, away] = [await run(shape), await run({ ...shape, techniques: [offload.create({ state: 'none', activations: 'disk' })] })]
  const layer = 48 * 16 * 16 * 32
  expect(plain.peak - away.peak).toBeGreaterThan(5 * layer)
})

// 16 bytes a parameter: weights, gradients, both moments. The limit has room for 11.
describe('a model whose AdamW state does not fit into memory', () => {
  const big: Options = { config: { ...config, layers: 16, dropout: 0 }, rows: 1, steps: 3 }
  const bytes = 11 * 16 * (12 * 64 * 64)
  test('fails without, trains offloaded with the losses of an unlimited run', async () => {
    const free = await run(big)
    expect(8 * free.parameters).toBeLessThan(bytes)
    expect(16 * free.parameters).toBeGreaterThan(bytes)
    await expect(run({ ...big, limit: bytes })).rejects.toMatchObject({ code: 'ERR_OUT_OF_MEMORY' })
    const away = await run({ ...big, limit: bytes, techniques: [offload.create({ piece: '256KiB' })] })
    expect(away.losses).toEqual(free.losses)
    expect(away.peak).toBeLessThanOrEqual(bytes)
    expect(away.weights).toEqual(free.weights)
    expect(away.summary.join()).toMatch(/offload: 0\.02 GB written and 0\.02 GB read/)
  })

  test('trains with QLoRA', async () => {
    const qlora = await run({ ...big, steps: 10, limit: bytes, techniques: [lora.create({ base: 'nf4', targets: 'all' })] })
    expect(qlora.losses.at(-1)).toBeLessThan(qlora.losses[0])
  })

  test('goes on from a checkpoint within the same limit, bit for bit', async () => {
    const technique = () => [offload.create({ piece: '256KiB' })]
    const whole = await run({ ...big, steps: 3, limit: bytes, techniques: technique() })
    const half = await tinyHalf(technique())
    const rest = await run({ ...big, steps: 3, limit: bytes, techniques: technique(), load: half })
    expect(rest.losses).toEqual(whole.losses.slice(2))
    expect(rest.weights).toEqual(whole.weights)
  })

  /** After two steps: the second is under way when the first is reported. */
  async function tinyHalf(techniques: Technique[]): Promise<Checkpoint> {
    const { trainer, model, optimizer } = tinyTrainer({ config: big.config, techniques, steps: 3, data: { batch: (i) => tokenBatch(i, 1, 16) } })
    const stop = new AbortController()
    for await (const { step } of trainer.train({ signal: stop.signal })) if (step === 1) stop.abort()
    const state = await trainer.state()
    model.dispose()
    optimizer.dispose()
    return state
  }
})

test('in bf16, 18 bytes a parameter fall to 10 and a piece with the state elsewhere, to 6 without f32 masters, to 2 and a layer without clipping', async () => {
  const shape = { config: { ...config, layers: 24, dropout: 0, vocab: 8 }, rows: 1, device: 'meta', steps: 2, precision: 'bf16' as const }
  const away = () => offload.create({ gradients: 'disk', activations: 'disk', piece: '65536' })
  const plain = await run(shape)
  const perParameter = async (techniques: Technique[]) => (await run({ ...shape, techniques })).peak / plain.parameters
  // Masters, copies, gradients, both moments. With clipping gradients stay 4 bytes at the peak: their norm is that of all of them.
  expect(plain.peak / plain.parameters).toBeGreaterThan(17.9)
  expect(await perParameter([away()])).toBeLessThan(10.1)
  expect(await perParameter([stochasticRounding.create(), away()])).toBeLessThan(6.1)
  const streamed = await run({ ...shape, clip: 0, techniques: [stochasticRounding.create(), updateInBackward.create(), away()] })
  const layer = 12 * 64 * 64
  expect(streamed.peak).toBeLessThan(2.01 * plain.parameters + 2.2 * 4 * layer)
})

test.each([
  [{ state: 'host' }, 'ERR_OPTION', /state is host, but the cpu computes/],
  [{ state: 'none', gradients: 'disk' }, 'ERR_OPTION', /gradients are offloaded, but state is not/],
  [{ folder: '/nowhere/at/all' }, 'ERR_IO', /no file can be made in the folder \/nowhere\/at\/all: No such file/],
] as const)('%p is refused', (settings, code, message) => {
  expect(() => tinyTrainer({ techniques: [offload.create(settings)] })).toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }))
})

test('a folder that is removed while it is in use does no harm', async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'leanformer-offload-'))
  const plain = await run()
  const technique = offload.create({ folder, piece: '20000' })
  const removing: Technique = { name: 'removing', grads: (_, step) => (step === 1 ? rmSync(folder, { recursive: true, force: true }) : undefined) }
  expect((await run({ techniques: [technique, removing] })).losses).toEqual(plain.losses)
})
