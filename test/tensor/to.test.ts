// Tensors from device to device: the bits arrive whatever happens to the source right after, gradients go the way back, and
// what fails on one device leaves the other usable. With several CUDA devices the copies run beside the kernels of both.
import { backward } from '../../lib/autograd/backward'
import { mul } from '../../lib/ops/elementwise'
import { sum } from '../../lib/ops/reductions'
import { to } from '../../lib/ops/to'
import { getDevice, listDevices, type Device } from '../../lib/tensor/device'
import { Pager } from '../../lib/tensor/pager'
import { keep, scope } from '../../lib/tensor/scope'
import { run1, tensor } from '../../lib/tensor/tensor'
import { digest } from '../support/digest'

const devices = listDevices().filter(({ name }) => name !== 'meta')
const pairs = devices.flatMap((a) => devices.filter((b) => b !== a).map((b) => [a.name, b.name, a, b] as const))
const meta = getDevice('meta')
const ramp = (size: number, from = 0) => Float32Array.from({ length: size }, (_, i) => from + i)

test('on the device where it is, it is the same tensor; meta has no numbers to give', async () => {
  const x = keep(tensor(ramp(6), [2, 3], { device: 'cpu', dtype: 'f64' }))
  const same = to(x, 'cpu')
  expect([same.id, await same.data()]).toEqual([x.id, await x.data()])
  // Of earlier tests of this process.
  const [inProgram, onDevice] = [meta.program().liveBytes, meta.stats().liveBytes]
  const shape = to(x, meta)
  expect([shape.shape, shape.dtype, shape.device.name, meta.program().liveBytes - inProgram]).toEqual([[2, 3], 'f64', 'meta', 48])
  expect(() => to(shape, 'cpu')).toThrow(expect.objectContaining({ code: 'ERR_DEVICE', message: "to: tensors on 'meta' have shapes but no numbers to copy to cpu" }))
  expect(() => to(x, 'cuda:77')).toThrow(expect.objectContaining({ code: 'ERR_DEVICE' }))
  const empty = to(tensor([], [0, 4], { device: 'cpu' }), meta)
  expect(empty.size).toBe(0)
  for (const one of [x, same, shape, empty]) one.dispose()
  expect(meta.stats().liveBytes).toBe(onDevice)
})

/**
 * Asks for everything at once: what was computed goes over, to memory that kernels there have just used; its source is changed in
 * place and released, and its memory is used.
 */
async function crossings(a: Device, b: Device): Promise<void> {
  const before = [(await a.synchronize()).liveBytes, (await b.synchronize()).liveBytes]
  const { copies } = a.stats()
  const arrived = []
  for (let round = 0; round < 12; ++round) {
    const size = 5000 + 700 * round
    const tensors = scope(() => {
      const x = tensor(ramp(size, round), null, { device: a })
      const doubled = run1('add', [x, x], {})
      for (let i = 0; i < 3; ++i) scope(() => void run1('square', [tensor(ramp(size, i), null, { device: b })], {}))
      const y = to(doubled.viewAs([size - 100], 100), b)
      run1('accumulate', [doubled, x], {})
      if (round % 2) run1('accumulate', [doubled, x], {})
      return [y, run1('square', [y], {}), to(doubled, b)]
    })
    scope(() => void run1('square', [tensor(ramp(size, 7), null, { device: a })], {}))
    arrived.push({ size, round, tensors })
  }
  for (const { size, round, tensors } of arrived) {
    const wanted = Float32Array.from({ length: size - 100 }, (_, i) => 2 * (round + i + 100))
    const later = Float32Array.from({ length: size }, (_, i) => (round % 2 ? 4 : 3) * (round + i))
    const found = await Promise.all(tensors.map((one) => one.data()))
    expect(digest(found)).toBe(digest([wanted, wanted.map((x) => x * x), later]))
    for (const one of tensors) one.dispose()
  }
  expect([(await a.synchronize()).liveBytes, (await b.synchronize()).liveBytes]).toEqual(before)
  // Pages and the like are not among them, and what goes through the host is not either.
  expect(a.stats().copies - copies).toBe(a.name.startsWith('cuda') && b.name.startsWith('cuda') ? 24 : 0)
}

if (pairs.length) {
  test.each(pairs)('%s to %s: the source may be changed and released at once', (_a, _b, a, b) => crossings(a, b))

  test.each(pairs)('%s to %s: gradients go the way back', async (_a, _b, a, b) => {
    const x = keep(tensor(ramp(300), null, { device: a, requiresGrad: true }))
    scope(() => {
      const there = to(mul(x, x), b)
      backward(sum(mul(there, tensor(ramp(300, 1), null, { device: b }))))
    })
    expect(x.grad!.device).toBe(a)
    expect(await x.grad!.data()).toEqual(Float32Array.from({ length: 300 }, (_, i) => 2 * i * (i + 1)))
    x.grad!.dispose()
    x.dispose()
  })

  test.each(pairs)('%s to %s: what is paged out, or was never computed, or finds no room', async (_a, _b, a, b) => {
    const notYet = async (device: Device) => (await device.synchronize()) && device.program().liveBytes - device.stats().liveBytes
    const before = [await notYet(a), await notYet(b)] // of earlier tests of this process
    const pager = new Pager(null)
    const x = keep(tensor(ramp(5000), null, { device: a }))
    pager.pageOut(x)
    pager.prefetch(x)
    const y = to(x, b)
    pager.pageOut(y)
    expect([await y.data(), await x.data()]).toEqual([ramp(5000), ramp(5000)])
    const [ofX, ofY] = [(await notYet(a)) - before[0], (await notYet(b)) - before[1]]
    expect(ofX).toBe(ofY)
    y.dispose()

    b.failPlacement(1)
    const refused = to(x, b)
    await expect(refused.data()).rejects.toMatchObject({ code: 'ERR_OUT_OF_MEMORY', message: expect.stringMatching(/^to: out of memory on .*20000 bytes asked for/) })
    b.clearError()
    await b.synchronize()
    refused.dispose()
    expect(await x.data()).toEqual(ramp(5000))

    a.failPlacement(1)
    const never = run1('add', [x, x], {})
    const neither = to(never, b)
    await expect(neither.data()).rejects.toMatchObject({ code: 'ERR_STREAM_FAILED' })
    await expect(a.synchronize()).rejects.toMatchObject({ code: 'ERR_OUT_OF_MEMORY' })
    a.clearError()
    await Promise.all([a.synchronize(), b.synchronize()])
    for (const gone of [never, neither, x]) gone.dispose()
    pager.close()
  })
}
