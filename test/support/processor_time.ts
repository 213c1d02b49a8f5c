// Processor time of programs beside each other: of this process, all threads, which other work on the machine disturbs least.
import { getDevice } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { median } from '../../lib/train/format'

/** Microseconds of processor time that `run` takes, with what it leaves in the queue. */
async function microseconds(run: () => void): Promise<number> {
  await getDevice('cpu').synchronize()
  const before = process.cpuUsage()
  scope(run)
  await getDevice('cpu').synchronize()
  const { user, system } = process.cpuUsage(before)
  return user + system
}

/** Time of each program by that of the first: the medians over rounds in which they take turns, in both orders. */
async function timeRatios(programs: readonly (() => void)[], rounds: number): Promise<number[]> {
  for (const run of programs) await microseconds(run)
  const ratios: number[][] = programs.map(() => [])
  for (let round = 0; round < rounds; ++round) {
    const order = programs.map((_, i) => i)
    if (round % 2) order.reverse()
    const times = new Array<number>(programs.length)
    for (const i of order) times[i] = await microseconds(programs[i])
    times.forEach((time, i) => ratios[i].push(time / times[0]))
  }
  return ratios.map((each) => median(each))
}

/**
 * Asserts that the second program takes between `low` and `high` times the time of the first. On a busy machine one measurement
 * may be off: up to three are made.
 */
export async function expectTimeRatio(first: () => void, second: () => void, [low, high]: readonly [number, number], rounds = 5): Promise<void> {
  const found: number[] = []
  while (found.length < 3) {
    const [, ratio] = await timeRatios([first, second], rounds)
    found.push(ratio)
    if (ratio >= low && ratio <= high) return
  }
  throw new Error(`time ratios ${found.map((ratio) => ratio.toFixed(3)).join(', ')} are not within ${low} and ${high}`)
}
