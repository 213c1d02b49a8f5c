// checkpoint(): the same gradients bit for bit, dropout included, and exactly the bytes that theory says.
import { backward } from '../../lib/autograd/backward'
import { checkpoint } from '../../lib/autograd/checkpoint'
import { Dropout } from '../../lib/nn/dropout'
import { Linear } from '../../lib/nn/linear'
import { sum } from '../../lib/ops/reductions'
import { tanh } from '../../lib/ops/elementwise'
import { getDevice } from '../../lib/tensor/device'
import { defaultGenerator, seed } from '../../lib/tensor/random'
import { keep, scope } from '../../lib/tensor/scope'
import { setRequiresGrad, tensor, type Tensor } from '../../lib/tensor/tensor'
import { randn } from '../../lib/ops/random'
import { collectGarbage } from '../support/garbage'

beforeAll(collectGarbage)

const width = 16
const rows = 64
const layers = 4

/** A chain of tanh(dropout(linear)) layers; each keeps three [rows, width] tensors for its backward pass. */
async function run(device: string, checkpointing: boolean) {
  seed(3)
  const where = getDevice(device)
  await where.synchronize()
  const start = where.stats().liveBytes
  const linears = Array.from({ length: layers }, () => new Linear(width, width, { device }))
  const drop = new Dropout(0.1)
  const layer = (linear: Linear) => (h: Tensor) => scope(() => tanh(drop.call(linear.call(h))))
  const x = keep(setRequiresGrad(randn([rows, width], { device })))
  await where.synchronize()
  where.resetPeak()
  const before = where.stats().liveBytes
  const loss = scope(() => {
    let h = x
    for (const linear of linears) h = checkpointing ? checkpoint(layer(linear), [h]) : layer(linear)(h)
    const value = sum(h)
    const forwardBytes = where.stats().liveBytes - before
    backward(value)
    return { value: value.detach(), forwardBytes }
  })
  const gradients = [x, ...linears.flatMap((linear) => linear.parameters().map((p) => p.tensor))].map((t) => t.grad!)
  const read = device === 'meta' ? [] : await Promise.all([loss.value, ...gradients].map((t) => t.data()))
  const peak = where.stats().peakBytes - before
  loss.value.dispose()
  for (const g of [x.grad!]) g.dispose()
  x.grad = null
  x.dispose()
  for (const linear of linears) linear.dispose()
  await where.synchronize()
  return { read, peak, forwardBytes: loss.forwardBytes, left: where.stats().liveBytes - start, state: defaultGenerator.state() }
}

test('gradients and generator are bit for bit those without checkpointing', async () => {
  const plain = await run(getDevice().name, false)
  const checkpointed = await run(getDevice().name, true)
  expect(checkpointed.read).toEqual(plain.read)
  expect(checkpointed.state).toEqual(plain.state)
})

test("bytes held after the forward pass are exactly the layers' inputs", async () => {
  const tensorBytes = rows * width * 4
  const scalar = 4
  // Without: dropout saves nothing, linear its input, tanh its output (which is the next layer's input).
  expect((await run(getDevice().name, false)).forwardBytes).toBe(layers * tensorBytes + scalar)
  expect((await run(getDevice().name, true)).forwardBytes).toBe(layers * tensorBytes + scalar)
})

test('a layer with inner tensors of its own holds only its input', async () => {
  const device = getDevice()
  const deep = (h: Tensor) => scope(() => tanh(tanh(tanh(h))))
  const bytes = async (checkpointing: boolean) => {
    const x = keep(setRequiresGrad(tensor(new Float32Array(1024), [1024])))
    await device.synchronize()
    const before = device.stats().liveBytes
    device.resetPeak()
    const held = scope(() => {
      const y = checkpointing ? checkpoint(deep, [x]) : deep(x)
      const value = device.stats().liveBytes - before
      backward(sum(y))
      return value
    })
    const peak = device.stats().peakBytes - before
    x.grad!.dispose()
    x.grad = null
    x.dispose()
    return { held, peak }
  }
  // tanh saves its output: three tensors of 4 KiB without, the last one alone with.
  expect((await bytes(false)).held).toBe(3 * 4096)
  expect((await bytes(true)).held).toBe(4096)
})

test('meta shows the same peak', async () => {
  for (const checkpointing of [false, true]) {
    const cpu = await run('cpu', checkpointing)
    const meta = await run('meta', checkpointing)
    expect(meta.peak).toBe(cpu.peak)
    expect(cpu.left).toBe(0)
    expect(meta.left).toBe(0)
  }
})

test('parameters inside get gradients when no input wants any', async () => {
  const linear = new Linear(4, 4)
  const x = keep(tensor(new Float32Array(8).fill(1), [2, 4]))
  scope(() => backward(sum(checkpoint((h) => linear.call(h), [x]))))
  expect(Array.from((await linear.bias!.grad!.data()) as Float32Array)).toEqual([2, 2, 2, 2])
})
