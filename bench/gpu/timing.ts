// Times on a device: a piece of work by the device's own clock, a whole step by the host's.
import type { Device } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { median } from '../../lib/train/format'

interface Timing {
  repeats?: number
  /** Counts just these operators. */
  only?: readonly string[]
  /** The least time instead of the median: for a CPU that others use, too. */
  least?: boolean
}

/**
 * Median seconds of the operators that `body` enqueues, together, by the device's clock. Warm-up first: libraries choose their
 * algorithms then.
 */
export async function deviceSeconds(device: Device, body: () => void, { repeats = 9, only, least = false }: Timing = {}) {
  // Nothing that `body` returns may leave the scope.
  const once = () => scope(() => void body())
  for (let i = 0; i < 3; ++i) once()
  await device.synchronize()
  device.timeOperators(true)
  const times: number[] = []
  for (let i = 0; i < repeats; ++i) {
    device.profile(true)
    once()
    await device.synchronize()
    const entries = device.profile(true).filter(({ op }) => !only || only.includes(op))
    times.push(entries.reduce((sum, entry) => sum + entry.seconds, 0))
  }
  device.timeOperators(false)
  return least ? Math.min(...times) : median(times)
}

/** Median milliseconds of `step`, which enqueues one step and resolves when its result is there, after `warmUp` of them. */
export async function stepMilliseconds(step: () => Promise<unknown>, steps: number, warmUp = 5): Promise<number> {
  for (let i = 0; i < warmUp; ++i) await step()
  const times: number[] = []
  for (let i = 0; i < steps; ++i) {
    const start = performance.now()
    await step()
    times.push(performance.now() - start)
  }
  return median(times)
}
