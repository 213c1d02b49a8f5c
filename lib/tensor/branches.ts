// Parts of a program that may run beside each other on a device: each on a queue of its own where the device has queues, one after
// the other elsewhere, with the same numbers and the same live and peak bytes. The device keeps the order where a part uses what
// another made. Memory that a part releases serves nobody else until all parts are done, so `reservedBytes` may be larger.
import { addon } from '../native/binding'
import type { Device } from './device'

/** Which part of branches() something belongs to; numbers from 1. */
export interface Branch {
  readonly device: Device
  readonly number: number
}

let current: Branch | null = null

/** null: what is asked for now comes after everything before it. */
export function currentBranch(): Branch | null {
  return current
}

/** @internal What is asked for from now on belongs to this branch; null comes after all of them. Use branches(). */
export function enterBranch(branch: Branch | null): void {
  if (branch?.device === current?.device && branch?.number === current?.number) return
  if (current && branch?.device !== current.device) addon.enterBranch(current.device.number, 0)
  if (branch) addon.enterBranch(branch.device.number, branch.number)
  current = branch
}

/**
 * Results of `parts`, which may run beside each other on `device`; what follows comes after all of them. Gradients run the same
 * way. Parts inside a part, and a single one, run in order. Each must be synchronous.
 */
export function branches<T>(device: Device, parts: readonly (() => T)[]): T[] {
  if (current || parts.length < 2) return parts.map((part) => part())
  try {
    return parts.map((part, i) => {
      enterBranch({ device, number: i + 1 })
      return part()
    })
  } finally {
    enterBranch(null)
  }
}
