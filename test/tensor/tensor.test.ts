// Tensors, scopes and devices: ownership, errors, memory.
import { add, mul } from '../../lib/ops/elementwise'
import { zeros } from '../../lib/ops/creation'
import { getDevice, liveHandles, listDevices } from '../../lib/tensor/device'
import { keep, scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'

const withCode = (code: string, text: string) => expect.objectContaining({ code, message: expect.stringContaining(text) })

test('numbers go in and come out in every format', async () => {
  const numbers = [0, 1, -2, 100, 0.5, -0.25, 3, 7]
  for (const dtype of ['f32', 'f64', 'f16', 'bf16'] as const) {
    using t = tensor(numbers, [2, 4], { dtype })
    expect(Array.from(await t.toFloat64())).toEqual(numbers)
  }
  for (const dtype of ['i8', 'i32', 'i64'] as const) {
    using t = tensor([1, -2, 100], null, { dtype })
    expect(Array.from(await t.toFloat64())).toEqual([1, -2, 100])
  }
  using flags = tensor([[true, false]], null, { dtype: 'bool' })
  expect(flags.shape).toEqual([1, 2])
  expect(Array.from((await flags.data()) as Uint8Array)).toEqual([1, 0])
})

test('typed arrays choose their dtype; a Uint16Array must say which', async () => {
  using a = tensor(new Int32Array([1, 2]))
  expect(a.dtype).toBe('i32')
  expect(() => tensor(new Uint16Array(2))).toThrow(withCode('ERR_DTYPE', 'Uint16Array'))
  using b = tensor(new Uint16Array([0x3f80]), null, { dtype: 'bf16' })
  expect(await b.item()).toBe(1)
  expect(() => tensor(new Float32Array(3), [2, 2])).toThrow(withCode('ERR_SHAPE', 'needs 4 numbers, got 3'))
  expect(() => tensor([[1, 2], [3]])).toThrow(withCode('ERR_SHAPE', 'differ in shape'))
})

test('a scope releases what is not returned or kept', async () => {
  const device = getDevice()
  await device.synchronize()
  const bytes = device.stats().liveBytes
  const handles = liveHandles()
  let kept
  const out = scope(() => {
    const a = zeros([100])
    const b = add(a, a)
    kept = keep(mul(b, b))
    return { list: [add(b, b)] }
  })
  expect(liveHandles()).toBe(handles + 2)
  expect(device.stats().liveBytes).toBe(bytes + 800)
  out.list[0].dispose()
  kept!.dispose()
  kept!.dispose()
  expect(liveHandles()).toBe(handles)
  expect(device.stats().liveBytes).toBe(bytes)
})

test('nested scopes hand tensors outwards', () => {
  const handles = liveHandles()
  scope(() => {
    const inner = scope(() => scope(() => zeros([1])))
    expect(inner.disposed).toBe(false)
    void add(inner, inner)
  })
  expect(liveHandles()).toBe(handles)
})

test('an error in a scope releases everything in it', () => {
  const handles = liveHandles()
  expect(() =>
    scope(() => {
      zeros([4])
      add(zeros([2]), zeros([3]))
    }),
  ).toThrow(withCode('ERR_SHAPE', 'add'))
  expect(liveHandles()).toBe(handles)
})

test('a promise cannot leave a scope, a disposed tensor cannot be used', async () => {
  expect(() => scope(async () => zeros([1]))).toThrow(withCode('ERR_ARGUMENT', 'promise'))
  const t = zeros([2, 3])
  t.dispose()
  expect(() => add(t, t)).toThrow(withCode('ERR_DISPOSED', '[2, 3]'))
  await expect(t.data()).rejects.toMatchObject({ code: 'ERR_DISPOSED' })
})

test('tensors of two devices do not meet, and absent devices say why', async () => {
  using a = zeros([2])
  using b = zeros([2], { device: 'meta' })
  expect(() => add(a, b)).toThrow(withCode('ERR_DEVICE', 'meta'))
  await expect(b.data()).rejects.toMatchObject({ code: 'ERR_DEVICE' })
  expect(listDevices().map((d) => d.name)).toEqual(expect.arrayContaining(['cpu', 'meta']))
  expect(() => getDevice('tpu')).toThrow(withCode('ERR_DEVICE', "'tpu'"))
  if (!listDevices().some((d) => d.name.startsWith('cuda'))) {
    expect(() => getDevice('cuda')).toThrow(withCode('ERR_DEVICE', "'cuda' is not here: "))
    expect(getDevice('auto').name).toBe('cpu')
  }
})

test('out of memory is a coded error that names the largest tensors, and the device works on', async () => {
  const device = getDevice()
  await device.synchronize()
  // Larger than anything that tests before it in this process may have left to the collector.
  using big = zeros([4096, 2048])
  await device.synchronize()
  device.setMemoryLimit(device.stats().liveBytes + 1000)
  const failed = zeros([500, 500])
  const after = add(failed, failed)
  const error = await after.data().catch((e) => e)
  expect(error).toMatchObject({ code: 'ERR_OUT_OF_MEMORY' })
  expect(error.message).toContain(`fill: out of memory on ${device.name}`)
  expect(error.message).toContain('f32 [4096, 2048] from fill')
  expect(error.hint).toContain('checkpointing')
  device.setMemoryLimit(0)
  await expect(device.synchronize()).rejects.toMatchObject({ code: 'ERR_OUT_OF_MEMORY' })
  device.clearError()
  using sum = add(big, big)
  expect((await sum.toFloat64())[0]).toBe(0)
  await expect(failed.data()).rejects.toMatchObject({ code: 'ERR_STREAM_FAILED' })
  failed.dispose()
  after.dispose()
})
