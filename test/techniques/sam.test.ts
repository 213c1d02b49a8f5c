// SAM: published numbers, exact restore, neutral at radius 0, exact accumulation, twice the work, flatter minima.
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { GPT } from '../../lib/models/gpt'
import { Parameter } from '../../lib/nn/parameter'
import { crossEntropy } from '../../lib/ops/cross_entropy'
import { SGD } from '../../lib/optim/sgd'
import { ascend, samEntry, sharpnessAwareGradients } from '../../lib/techniques/sam'
import { GradientSum } from '../../lib/techniques/m_sam'
import { Generator, hostRandom, seed } from '../../lib/tensor/random'
import { keep, scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { rowsOf, Student, teacher, type Examples } from '../support/teacher'
import { expectResume, outcome } from '../support/techniques'
import { tinyConfig, tinyTrainer, tokenBatch } from '../support/tiny_gpt'

const f64 = (values: number[]) => tensor(values, null, { dtype: 'f64' })

/** The move and the second gradient of 1/2 p diag(1, 10) p. */
async function onQuadratic(p: number[], options: { rho: number; eta?: number }) {
  const parameter = new Parameter(f64(p))
  const parameters = new Map([['weight', parameter]])
  const curvature = [1, 10]
  parameter.tensor.grad = keep(f64(p.map((x, i) => curvature[i] * x)))
  const restore = ascend(parameters, options)
  const moved = await parameter.tensor.toFloat64()
  restore()
  expect(Array.from(await parameter.tensor.toFloat64())).toEqual(p)
  parameter.dispose()
  return { e: p.map((x, i) => moved[i] - x), g: Array.from(moved, (x, i) => curvature[i] * x) }
}

test('SAM on 1/2 p diag(1, 10) p at (1, 1), rho 0.05', async () => {
  const { e, g } = await onQuadratic([1, 1], { rho: 0.05 })
  ;[0.004975186, 0.0497518596].forEach((x, i) => expect(e[i]).toBeCloseTo(x, 9))
  ;[1.004975186, 10.4975185951].forEach((x, i) => expect(g[i]).toBeCloseTo(x, 9))
})

test('ASAM, rho 0.5: eta 0 at (1, 1), eta 0.01 at (2, 0.5)', async () => {
  const plain = await onQuadratic([1, 1], { rho: 0.5, eta: 0 })
  ;[0.0497518595, 0.4975185951].forEach((x, i) => expect(plain.e[i]).toBeCloseTo(x, 9))
  const other = await onQuadratic([2, 0.5], { rho: 0.5, eta: 0.01 })
  ;[0.8486612518, 0.1365911683].forEach((x, i) => expect(other.e[i]).toBeCloseTo(x, 9))
})

test.each(['f32', 'bf16'] as const)('radius 0 is the run without it, bit for bit, with dropout and accumulation: %s', async (precision) => {
  const options = { steps: 4, accumulate: 2, precision, config: { dropout: 0.2 } }
  const sam = await outcome([samEntry.create({ rho: 0, same_format: true })], options)
  expect(sam).toEqual(await outcome([], options))
})

test('masters and 16-bit copies come back bit for bit', async () => {
  const parameter = new Parameter(tensor(Float32Array.from({ length: 600 }, (_, i) => Math.sin(i) / 3), [20, 30]))
  parameter.setComputeDType('bf16')
  parameter.tensor.grad = keep(tensor(Float32Array.from({ length: 600 }, (_, i) => Math.cos(i)), [20, 30]))
  const before = [await parameter.tensor.data(), await parameter.copy!.data()]
  for (const sameFormat of [true, false]) {
    const restore = ascend(new Map([['weight', parameter]]), { rho: 0.05, sameFormat })
    expect(await parameter.tensor.data()).not.toEqual(before[0])
    expect(parameter.value.dtype).toBe(sameFormat ? 'bf16' : 'f32')
    restore()
    expect([await parameter.tensor.data(), await parameter.copy!.data()]).toEqual(before)
  }
  parameter.dispose()
})

test('four micro-batches give the gradient of the whole batch to 1e-10 in f64; a perturbation for each does not', async () => {
  const model = new GPT(tinyConfig, { dtype: 'f64', generator: new Generator(3) })
  const parameters = model.namedParameters()
  const whole = tokenBatch(0, 8)
  // Rows that differ, so that micro-batches do.
  const inputs = whole.inputs.map((x, i) => (x + Math.floor(i / 16) * (i % 7)) % tinyConfig.vocab)
  const part = (first: number, rows: number) => () =>
    scope(() => {
      const cut = (values: Int32Array) => tensor(values.slice(first * 16, (first + rows) * 16), [rows, 16])
      backward(model.loss(cut(inputs), cut(whole.targets), {}, { scale: 1 / whole.tokens }))
    })
  const zero = () => parameters.forEach((parameter) => parameter.zeroGrad())
  const grads = async () => {
    const values = await Promise.all([...parameters.values()].map(({ grad }) => grad!.toFloat64()))
    return values.flatMap((x) => Array.from(x))
  }
  const options = { rho: 0.5 }
  const step = (parts: (() => void)[]) => () => {
    zero()
    for (const run of parts) run()
  }
  const quarters = [0, 2, 4, 6].map((first) => part(first, 2))
  sharpnessAwareGradients(parameters, step([part(0, 8)]), options)
  const expected = await grads()
  sharpnessAwareGradients(parameters, step(quarters), options)
  const split = await grads()
  const sum = new GradientSum(parameters)
  for (const quarter of quarters) {
    sharpnessAwareGradients(parameters, step([quarter]), options)
    sum.add()
  }
  sum.finish()
  const micro = await grads()
  const largest = Math.max(...expected.map(Math.abs))
  const worst = (x: number[]) => Math.max(...x.map((v, i) => Math.abs(v - expected[i]))) / largest
  expect(worst(split)).toBeLessThan(1e-10)
  expect(worst(micro)).toBeGreaterThan(1e-4)
  model.dispose()
})

test('a step is two forward and two backward passes', async () => {
  const flops = []
  for (const techniques of [[], [samEntry.create()]]) {
    const { trainer, model } = tinyTrainer({ steps: 3, techniques })
    for await (const metrics of trainer.train()) if (metrics.step === 3) flops.push(metrics.flops)
    model.dispose()
  }
  // The update, and the move there and back, are paid once.
  expect(flops[1] / flops[0]).toBeGreaterThan(1.85)
  expect(flops[1] / flops[0]).toBeLessThan(2.05)
})

test('new dropout masks change the run', async () => {
  const options = { steps: 3, config: { dropout: 0.2 } }
  const replayed = await outcome([samEntry.create()], options)
  const redrawn = await outcome([samEntry.create({ redraw: true })], options)
  expect(redrawn.losses[0]).toBe(replayed.losses[0])
  expect(redrawn.losses[2]).not.toBe(replayed.losses[2])
})

test('resumes bit for bit with dropout, in f32, bf16 and f16', async () => {
  for (const precision of ['f32', 'bf16', 'f16'] as const) {
    await expectResume(() => [samEntry.create()], { steps: 5, config: { dropout: 0.1 }, precision })
  }
})

/** The largest rise of the loss over 20 random directions of length rho. */
async function sharpness(student: Student, data: Examples, rho: number, seedValue: number): Promise<number> {
  const { x, labels } = rowsOf(data, 0, data.count)
  const loss = async () => {
    const value = scope(() => noGrad(() => crossEntropy(student.call(x), labels)))
    return value.item()
  }
  const masters = student.parameters()
  const start = await Promise.all(masters.map((parameter) => parameter.tensor.toFloat32()))
  const base = await loss()
  const random = hostRandom({ seed: seedValue, offset: 9 })
  let most = -Infinity
  for (let i = 0; i < 20; ++i) {
    const direction = start.map((values) => values.map(() => random.normal()))
    const norm = Math.sqrt(direction.reduce((s, d) => s + d.reduce((t, v) => t + v * v, 0), 0))
    masters.forEach((parameter, k) => parameter.set(tensor(start[k].map((v, j) => v + (rho * direction[k][j]) / norm), parameter.shape)))
    most = Math.max(most, (await loss()) - base)
  }
  return most
}

test('after training on noisy labels the loss rises less around the minimum than without, for at least 4 of 5 seeds', async () => {
  const { train } = teacher()
  const count = 512
  const random = hostRandom({ seed: 11, offset: 1 })
  const labels = train.labels.slice(0, count).map((label) => (random.uniform() < 0.2 ? Math.floor(random.uniform() * 10) : label))
  const data = { count, x: train.x.slice(0, count * 64), labels }
  let flatter = 0
  for (let s = 1; s <= 5; ++s) {
    const values = []
    for (const rho of [0, 0.1]) {
      seed(s)
      const student = new Student(s, [64, 48, 10])
      const parameters = student.namedParameters()
      const optimizer = new SGD([{ parameters }], { momentum: 0.9 })
      for (let step = 0; step < 300; ++step) {
        scope(() => {
          const { x, labels: y } = rowsOf(data, step * 64, 64)
          const gradients = () => {
            optimizer.zeroGrad()
            scope(() => backward(crossEntropy(student.call(x), y)))
          }
          if (rho) sharpnessAwareGradients(parameters, gradients, { rho })
          else gradients()
          optimizer.step(0.1)
        })
        if (step % 20 === 19) await student.parameters()[0].tensor.device.synchronize()
      }
      values.push(await sharpness(student, data, 0.5, s))
      optimizer.dispose()
      student.dispose()
    }
    if (values[1] < values[0]) flatter++
  }
  expect(flatter).toBeGreaterThanOrEqual(4)
}, 120_000)
