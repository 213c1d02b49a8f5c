// The training loop: exact accumulation, exact resume, the same bits on any number of threads, precision, abort, errors.
import { backward } from '../../lib/autograd/backward'
import { GPT } from '../../lib/models/gpt'
import { LossScaler } from '../../lib/train/loss_scaler'
import { addon } from '../../lib/native/binding'
import { cast } from '../../lib/ops/cast'
import { mulScalar } from '../../lib/ops/elementwise'
import { sum } from '../../lib/ops/reductions'
import { getDevice } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { Generator, seed } from '../../lib/tensor/random'
import { setRequiresGrad, tensor, type Tensor } from '../../lib/tensor/tensor'
import { orderTechniques, type Batch } from '../../lib/techniques/technique'
import { tinyConfig, tinyTrainer, tokenBatch, trainAll } from '../support/tiny_gpt'

async function weightBytes(model: GPT): Promise<Map<string, string>> {
  const out = new Map<string, string>()
  for (const [name, { tensor: value }] of model.namedParameters()) {
    const data = await value.data()
    out.set(name, Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64'))
  }
  return out
}

test.each(['f32', 'bf16', 'f16'] as const)('the loss falls in %s', async (precision) => {
  const { trainer, model } = tinyTrainer({ precision, steps: 150 })
  const losses = await trainAll(trainer)
  expect(losses).toHaveLength(150)
  expect(losses[0]).toBeCloseTo(Math.log(tinyConfig.vocab), 0)
  expect(losses[149]).toBeLessThan(1)
  model.dispose()
})

test('the same seed gives the same bits, on 1 and on 2 threads, with dropout', async () => {
  const runs = []
  const before = addon.threads()
  for (const threads of [1, 2, 2]) {
    addon.setThreads(threads)
    const { trainer, model } = tinyTrainer({ config: { dropout: 0.1, width: 64 }, precision: 'bf16' })
    const losses = await trainAll(trainer)
    runs.push({ losses, weights: await weightBytes(model) })
    model.dispose()
  }
  addon.setThreads(before)
  expect(runs[1]).toEqual(runs[0])
  expect(runs[2]).toEqual(runs[0])
})

test('stopping, saving and resuming in a fresh trainer gives the weights of the run without a stop', async () => {
  const options = { steps: 12, config: { dropout: 0.1 }, precision: 'f16' as const }
  const whole = tinyTrainer(options)
  const losses = await trainAll(whole.trainer)
  const first = tinyTrainer(options)
  const abort = new AbortController()
  const begun: number[] = []
  for await (const metrics of first.trainer.train({ signal: abort.signal })) {
    begun.push(metrics.loss)
    if (metrics.step === 5) abort.abort()
  }
  const saved = await first.trainer.state()
  const json = JSON.parse(JSON.stringify(saved.state))
  const second = tinyTrainer(options)
  second.trainer.load({ tensors: saved.tensors, state: json })
  const rest = await trainAll(second.trainer)
  expect([...begun, ...rest]).toEqual(losses)
  expect(await weightBytes(second.model)).toEqual(await weightBytes(whole.model))
  for (const { model } of [whole, first, second]) model.dispose()
})

describe('accumulation is exact per counted token', () => {
  // Rows with very different numbers of counted targets, cut into micro-batches in several ways.
  const rows = 32
  const lengths = [16, 1, 7, 0, 16, 3, 12, 9]
  const counted = Array.from({ length: rows }, (_, row) => lengths[(row * 5 + (row >> 3)) % 8])
  const whole = tokenBatch(0, rows)
  const targets = whole.targets.map((t, i) => (i % whole.context < counted[Math.floor(i / whole.context)] ? t : -1))
  const part = (first: number, count: number): Batch => ({
    ...whole,
    batch: count,
    inputs: whole.inputs.slice(first * whole.context, (first + count) * whole.context),
    targets: targets.slice(first * whole.context, (first + count) * whole.context),
    tokens: counted.slice(first, first + count).reduce((a, b) => a + b, 0),
  })

  const norm = (x: readonly number[]) => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0))

  async function oneStep(size: number) {
    const grads = new Map<string, Promise<Float64Array>>()
    const watcher = {
      name: 'watcher',
      grads: (parameters: Map<string, { grad: Tensor | null }>) => {
        for (const [name, { grad }] of parameters) grads.set(name, grad!.toFloat64())
      },
    }
    const { trainer, model } = tinyTrainer({
      steps: 1,
      accumulate: rows / size,
      data: { batch: (i) => part(i * size, size) },
      techniques: [watcher],
    })
    const [loss] = await trainAll(trainer)
    const values: number[] = []
    for (const grad of grads.values()) values.push(...(await grad))
    model.dispose()
    return { loss, values }
  }

  test('micro-batches of 16, 4 and 1 rows give loss and gradient of all 32, to 1e-6', async () => {
    const full = await oneStep(rows)
    for (const size of [16, 4, 1]) {
      const split = await oneStep(size)
      expect(Math.abs(split.loss / full.loss - 1)).toBeLessThan(1e-6)
      expect(norm(split.values.map((v, i) => v - full.values[i])) / norm(full.values)).toBeLessThan(1e-6)
    }
  })

  // A trainer computes in f32 at most: this is what its steps do.
  test('in f64 to 1e-12', async () => {
    const model = new GPT(tinyConfig, { dtype: 'f64', generator: new Generator(1) })
    const scale = 1 / counted.reduce((a, b) => a + b)
    const gradient = async (size: number) => {
      for (let first = 0; first < rows; first += size) {
        const { inputs, targets } = part(first, size)
        const ids = (values: Int32Array) => tensor(values, [size, whole.context])
        scope(() => backward(model.loss(ids(inputs), ids(targets), {}, { scale })))
      }
      const values: number[] = []
      for (const parameter of model.parameters()) {
        values.push(...(await parameter.grad!.toFloat64()))
        parameter.zeroGrad()
      }
      return values
    }
    const full = await gradient(rows)
    for (const size of [16, 4, 1]) expect(norm((await gradient(size)).map((v, i) => v - full[i])) / norm(full)).toBeLessThan(1e-12)
    model.dispose()
  })
})

test('f16: a gradient of 1e-9 survives a loss scale of 65536 and vanishes without one', async () => {
  for (const [scale, wanted] of [[65536, 1e-9], [1, 0]]) {
    const x = setRequiresGrad(tensor([1, 2]))
    // What flows back through the half-precision copy is kept in f16.
    scope(() => backward(sum(mulScalar(cast(cast(x, 'f16'), 'f32'), 1e-9 * scale))))
    const grad = await x.grad!.toFloat64()
    for (const g of grad) expect(Math.abs(g / scale - wanted)).toBeLessThanOrEqual(1e-3 * wanted)
  }
  // In a model: the gradients of a loss of 1e-7 are lost without a scale.
  const share = async (scale: number) => {
    const seen: Promise<Float64Array>[] = []
    const watcher = { name: 'watcher', grads: (parameters: Map<string, { grad: Tensor | null }>) => void seen.push(parameters.get('blocks.0.mlp.up.weight')!.grad!.toFloat64()) }
    const small = { name: 'small', loss: (loss: Tensor) => mulScalar(loss, 1e-7) }
    const { trainer, model } = tinyTrainer({ steps: 1, precision: 'f16', lossScaler: new LossScaler(scale), techniques: [small, watcher] })
    await trainAll(trainer)
    model.dispose()
    const [grad] = await Promise.all(seen)
    return grad.filter((g) => g !== 0).length / grad.length
  }
  expect(await share(65536)).toBeGreaterThan(0.99)
  expect(await share(1)).toBeLessThan(0.01)
})

test('a loss that is not finite names the step and the first operator that made it; the parameters stay', async () => {
  const { trainer, model } = tinyTrainer({
    steps: 6,
    techniques: [
      { name: 'poison', loss: (loss: Tensor, step: number) => (step === 3 ? mulScalar(loss, Infinity) : loss) },
    ],
  })
  const steps: number[] = []
  const error = await (async () => {
    for await (const metrics of trainer.train()) steps.push(metrics.step)
  })().catch((e) => e)
  expect(error).toMatchObject({ code: 'ERR_NON_FINITE' })
  expect(steps).toEqual([1, 2, 3])
  expect(error.message).toMatch(/^step 4: the loss \(Infinity\) is not finite; the first operator with such a result is scale \(output 0, f32 \[\]/)
  for (const { tensor: value } of model.parameters()) expect((await value.toFloat64()).every(Number.isFinite)).toBe(true)
  await getDevice().synchronize()
  model.dispose()
})

test('f16: an overflow skips the step, halves the scale and changes nothing', async () => {
  const scaler = new LossScaler(65536)
  let weights: Map<string, string> | undefined
  const { trainer, model, optimizer } = tinyTrainer({
    steps: 4,
    precision: 'f16',
    lossScaler: scaler,
    techniques: [
      { name: 'overflow', loss: (loss: Tensor, step: number) => (step === 1 || step === 2 ? mulScalar(loss, 1e38) : loss) },
    ],
  })
  const seen = []
  for await (const metrics of trainer.train()) {
    seen.push([metrics.step, metrics.skipped ?? false, scaler.scale])
    if (metrics.step === 1) weights = await weightBytes(model)
    if (metrics.step === 3) expect(await weightBytes(model)).toEqual(weights)
  }
  expect(seen).toEqual([[1, false, 65536], [2, true, 32768], [3, true, 16384], [4, false, 16384]])
  expect(optimizer.steps).toBe(2)
  model.dispose()
})

test('the scale doubles after exactly the window of clean steps', () => {
  const scaler = new LossScaler(1024, 2000)
  for (let i = 0; i < 1999; ++i) scaler.update(false)
  expect(scaler.scale).toBe(1024)
  scaler.update(false)
  expect(scaler.scale).toBe(2048)
})

test('out of memory rejects the step with the largest tensors, and a smaller run works afterwards', async () => {
  const device = getDevice()
  await device.synchronize()
  const { trainer, model } = tinyTrainer({ steps: 2 })
  await device.synchronize()
  device.setMemoryLimit(device.stats().liveBytes + 40_000)
  const error = await trainAll(trainer).catch((e) => e)
  expect(error).toMatchObject({ code: 'ERR_OUT_OF_MEMORY' })
  device.setMemoryLimit(0)
  device.clearError()
  model.dispose()
  const again = tinyTrainer({ steps: 2 })
  expect(await trainAll(again.trainer)).toHaveLength(2)
  again.model.dispose()
})

test('packed samples do not see each other', async () => {
  seed(4)
  const model = new GPT({ ...tinyConfig, positions: 'rotary' })
  const segments = Int32Array.from([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, -1, -1])
  const positions = Int32Array.from([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 0, 1, 0, 0])
  const ids = Int32Array.from({ length: 16 }, (_, i) => (i * 11) % 31)
  const logits = (values: Int32Array) =>
    scope(() =>
      model.logits(tensor(values, [1, 16]), { segments: tensor(segments, [1, 16]), positions: tensor(positions, [1, 16]) }),
    ).data()
  const before = (await logits(ids)) as Float32Array
  const changed = ids.slice()
  for (let i = 5; i < 12; ++i) changed[i] = (changed[i] + 9) % 31
  const after = (await logits(changed)) as Float32Array
  const row = (all: Float32Array, t: number) => Array.from(all.slice(t * 31, (t + 1) * 31))
  for (let t = 0; t < 14; ++t) {
    if (t >= 5 && t < 12) expect(row(after, t)).not.toEqual(row(before, t))
    else expect(row(after, t)).toEqual(row(before, t))
  }
  // A packed sample is what it is alone.
  const alone = scope(() => model.logits(tensor(ids.slice(5, 12), [1, 7])))
  const single = (await alone.data()) as Float32Array
  for (let t = 0; t < 7; ++t) row(single, t).forEach((x, i) => expect(x).toBeCloseTo(row(before, 5 + t)[i], 5))
  model.dispose()
})

test('evaluation is the exact mean and disturbs nothing', async () => {
  const evalData = { length: 3, batch: (i: number) => tokenBatch(100 + i, i + 1) }
  const plain = tinyTrainer({ config: { dropout: 0.2 } })
  const evaluated = tinyTrainer({ config: { dropout: 0.2 }, evalData, evalEvery: 2 })
  expect(await trainAll(evaluated.trainer)).toEqual(await trainAll(plain.trainer))
  const { loss, tokens } = await evaluated.trainer.evaluate()
  expect(tokens).toBe(6 * tinyConfig.context)
  evaluated.model.eval()
  let sum = 0
  for (let i = 0; i < 3; ++i) {
    const { inputs, targets, batch, context } = evalData.batch(i)
    const value = scope(() => evaluated.model.loss(tensor(inputs, [batch, context]), tensor(targets, [batch, context])))
    sum += (await value.item()) * batch * context
  }
  expect(loss).toBeCloseTo(sum / tokens, 5)
  for (const { model } of [plain, evaluated]) model.dispose()
})

test('recomputing layers gives the same run and a lower peak', async () => {
  const device = getDevice()
  const runs = []
  for (const checkpointing of [false, true]) {
    await device.synchronize()
    const before = device.stats().liveBytes
    const { trainer, model, optimizer } = tinyTrainer({ config: { checkpointing, dropout: 0.1, layers: 6 } })
    const losses: number[] = []
    let peak = 0
    for await (const metrics of trainer.train()) {
      losses.push(metrics.loss)
      peak = metrics.peakBytes - before
    }
    runs.push({ losses, weights: await weightBytes(model), peak })
    model.dispose()
    optimizer.dispose()
  }
  expect(runs[1].losses).toEqual(runs[0].losses)
  expect(runs[1].weights).toEqual(runs[0].weights)
  expect(runs[1].peak).toBeLessThan(runs[0].peak)
})

test('techniques come in the order they ask for', () => {
  const named = (name: string, after?: string[]) => ({ name, after })
  const order = orderTechniques([named('c', ['b']), named('a'), named('b', ['a', 'absent'])]).map((t) => t.name)
  expect(order).toEqual(['a', 'b', 'c'])
})

test('a step technique wraps gradients and update: two gradient passes give the same gradients', async () => {
  const seen: number[][] = []
  const { trainer, model } = tinyTrainer({
    steps: 1,
    config: { dropout: 0.1 },
    techniques: [
      {
        name: 'twice',
        step: (_next, context) => {
          context.gradients()
          context.gradients()
          context.update()
        },
      },
      { name: 'watch', grads: (parameters) => void seen.push([parameters.size]) },
    ],
  })
  expect(await trainAll(trainer)).toHaveLength(1)
  expect(seen).toHaveLength(2)
  model.dispose()
})

test('options out of range are refused by name', () => {
  expect(() => tinyTrainer({ steps: 0 })).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
  expect(() => tinyTrainer({ accumulate: 1.5 })).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
  expect(() => tinyTrainer({ config: { heads: 5 } })).toThrow(expect.objectContaining({ code: 'ERR_ARGUMENT' }))
  expect(() => tinyTrainer({ config: { vocab: 0 } })).toThrow(expect.objectContaining({ code: 'ERR_ARGUMENT' }))
})
