// Branches: whatever order a device carries them out in, numbers, gradients and bytes are those of the program in order. The
// simulator chooses another order with every seed, so an event that is missing shows as wrong numbers.
import { backward } from '../../lib/autograd/backward'
import { checkpoint } from '../../lib/autograd/checkpoint'
import { noGrad } from '../../lib/autograd/tape'
import { accumulate } from '../../lib/ops/accumulate'
import { add, addScalar, mul, mulScalar, sub } from '../../lib/ops/elementwise'
import { sum } from '../../lib/ops/reductions'
import { branches } from '../../lib/tensor/branches'
import { getDevice, type Device } from '../../lib/tensor/device'
import { Pager } from '../../lib/tensor/pager'
import { keep, scope } from '../../lib/tensor/scope'
import { setRequiresGrad, tensor, type Tensor } from '../../lib/tensor/tensor'
import { testDevices } from '../support/devices'
import { digest } from '../support/digest'
import { collectGarbage } from '../support/garbage'

beforeAll(collectGarbage) // of other files, whose release would count here
const devices = testDevices().map((device) => [device.name, device] as const)
const size = 3000
type Run = <T>(device: Device, parts: readonly (() => T)[]) => T[]
const inOrder: Run = (_, parts) => parts.map((part) => part())

const ramp = (from: number) => Float32Array.from({ length: size }, (_, i) => ((i * 37 + from * 11) % 101) / 50 - 1)
const input = (device: Device, from: number) => tensor(ramp(from), null, { device })

/** A few operators one after another, each releasing what it does not need any more. */
function chain(x: Tensor, by: Tensor, steps: number): Tensor {
  let y = addScalar(x, 0.25)
  for (let i = 0; i < steps; ++i) {
    const next = scope(() => mulScalar(add(y, mul(y, by)), 1 / (i + 2)))
    y.dispose()
    y = next
  }
  return y
}

/** Runs a program with its parts beside each other and in order, and compares what they give bit for bit. */
async function same(device: Device, program: (run: Run) => Tensor[]): Promise<number> {
  const live = (await device.synchronize()).liveBytes
  const results: Float32Array[][] = []
  const peaks: number[] = []
  for (const run of [inOrder, branches]) {
    device.resetPeak()
    const tensors = scope(() => program(run))
    results.push(await Promise.all(tensors.map((x) => x.toFloat32())))
    for (const x of tensors) x.dispose()
    const stats = await device.synchronize()
    expect(stats.liveBytes).toBe(live)
    peaks.push(stats.peakBytes - live)
  }
  expect(results[0].every((values) => values.every(Number.isFinite))).toBe(true)
  expect(digest(results[1])).toBe(digest(results[0]))
  expect(peaks[1]).toBe(peaks[0])
  return peaks[0]
}

/** Parts that begin with what was just made, release memory that others ask for, and are used right after. */
function shared(device: Device) {
  return (run: Run): Tensor[] => {
    const made = chain(input(device, 1), input(device, 2), 3)
    // More than a device has queues.
    const parts = run(device, Array.from({ length: 10 }, (_, i) => () => chain(made, input(device, i), 4 + (i % 3))))
    return [...parts, parts.reduce((total, part) => add(total, part))]
  }
}

test.each(devices)('%s: parts and what follows them', async (name, device) => {
  const { branches: before } = device.stats()
  const peak = await same(device, shared(device))
  expect(device.stats().branches - before).toBe(name.startsWith('cuda') ? 8 : 0)
  // Forecast without computing: the same bytes.
  const meta = getDevice('meta')
  const live = meta.stats().liveBytes
  meta.resetPeak()
  for (const x of scope(() => shared(meta)(branches))) x.dispose()
  expect(meta.stats().peakBytes - live).toBe(peak)
})

test.each(devices)('%s: a part uses what another made, and changes it in place', (_, device) =>
  same(device, (run) => {
    const x = keep(input(device, 3))
    let between: Tensor
    const parts = run(device, [
      () => (between = chain(x, x, 6)),
      () => chain(sub(between, x), between, 8),
      () => {
        noGrad(() => accumulate(between, x))
        return chain(between, x, 1)
      },
      () => add(between, x),
    ])
    x.dispose()
    return parts
  }))

test.each(devices)('%s: a part releases what another reads', (_, device) =>
  same(device, (run) => {
    const x = keep(input(device, 5))
    const y = keep(mul(x, x))
    return run(device, [
      () => chain(y, x, 5),
      () => {
        y.dispose()
        return chain(input(device, 6), input(device, 7), 5)
      },
      () => {
        x.dispose()
        return chain(input(device, 8), input(device, 9), 5)
      },
    ])
  }))

test.each(devices)('%s: reads and pages within parts', async (_, device) => {
  const read: Promise<Float32Array>[] = []
  const pager = new Pager(null)
  await same(device, (run) => {
    const away = keep(chain(input(device, 1), input(device, 2), 2))
    const parts = run(device, [
      () => chain(away, input(device, 3), 3),
      () => {
        const y = chain(input(device, 4), input(device, 5), 3)
        read.push(y.toFloat32())
        pager.pageOut(away)
        return chain(y, input(device, 1), 2)
      },
      () => chain(away, input(device, 6), 3),
      () => chain(away, input(device, 7), 3),
    ])
    away.dispose()
    return parts
  })
  const [a, b] = await Promise.all(read)
  expect(digest([b])).toBe(digest([a]))
  pager.close()
})

/** Loss and gradients of a model of three parts. */
function gradients(device: Device, again: boolean) {
  return (run: Run): Tensor[] => {
    const leaves = [1, 2, 3, 4].map((from) => setRequiresGrad(keep(input(device, from))))
    const body = (x: Tensor) => {
      const parts = run(device, leaves.slice(1).map((leaf, i) => () => {
        let y = mul(x, leaf)
        for (let step = 0; step < 2 + i; ++step) y = add(mul(y, x), leaf)
        return y
      }))
      return parts.reduce((total, part) => add(total, part))
    }
    const x = mul(leaves[0], leaves[0])
    const loss = sum(again ? checkpoint(body, [x]) : body(x))
    backward(loss)
    const grads = leaves.map((leaf) => leaf.grad!)
    for (const leaf of leaves) leaf.dispose()
    return [loss.detach(), ...grads]
  }
}

test.each(devices)('%s: gradients run on the branches of their operators, also when they are run again', async (name, device) => {
  for (const again of [false, true]) {
    const { branches: before } = device.stats()
    await same(device, gradients(device, again))
    const begun = device.stats().branches - before
    if (name.startsWith('cuda')) expect(begun).toBeGreaterThanOrEqual(again ? 9 : 6)
    else expect(begun).toBe(0)
  }
})

test.each(devices)('%s: repeating steps, as graphs where there are any', async (name, device) => {
  const weight = keep(input(device, 11))
  const values: number[] = []
  const { graphReplays } = await device.synchronize()
  for (const run of [inOrder, branches]) {
    const start = keep(input(device, 12))
    for (let step = 0; step < 6; ++step) {
      device.repeating(() => scope(() => {
        // Written by the host within the step, and used by a branch.
        const parts = run(device, [0, 1, 2].map((i) => () => chain(mul(start, weight), input(device, step + i), 3)))
        noGrad(() => accumulate(start, mulScalar(parts.reduce((total, part) => add(total, part)), 0.01)))
      }))
      // Gone before the next step, which must find its memory where it was.
      const value = scope(() => sum(mul(start, start)))
      values.push(await value.item())
      value.dispose()
    }
    start.dispose()
  }
  expect(values.slice(6)).toEqual(values.slice(0, 6))
  expect(new Set(values.slice(6)).size).toBe(6)
  const stats = await device.synchronize()
  if (name.startsWith('cuda')) expect(stats.graphReplays - graphReplays).toBeGreaterThanOrEqual(8)
  weight.dispose()
})

test.each(devices)('%s: errors within a part leave the device in order', async (_, device) => {
  const live = (await device.synchronize()).liveBytes
  expect(() => scope(() => branches(device, [() => chain(input(device, 1), input(device, 2), 3), () => {
    throw new Error('of the part')
  }]))).toThrow('of the part')
  await same(device, shared(device))
  for (const n of [3, 9, 20]) {
    device.failPlacement(n)
    for (const x of scope(() => shared(device)(branches))) x.dispose()
    await expect(device.synchronize()).rejects.toMatchObject({ code: 'ERR_OUT_OF_MEMORY' })
    device.clearError()
    await same(device, shared(device))
  }
  expect((await device.synchronize()).liveBytes).toBe(live)
})
