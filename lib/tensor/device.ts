// Devices by name. `cpu` computes; `meta` only knows shapes, bytes and costs; `cuda:N` come from a plug-in.
import { addon, type DeviceFacts } from '../native/binding'
import { fence, statsNow, type DeviceStats } from '../native/call'
import { LeanformerError } from '../native/errors'

export interface OpProfile {
  op: string
  calls: number
  seconds: number
  flops: number
  bytesRead: number
  bytesWritten: number
}

export class Device {
  /** @internal */
  constructor(
    readonly name: string,
    /** @internal */ readonly number: number,
  ) {}

  /**
   * Exact bytes of live tensors now (liveBytes) and at the most since resetPeak() (peakBytes), bytes taken from the
   * system (reservedBytes), and the FLOPs, bytes and seconds of all operators so far. Blocks until the device is idle;
   * synchronize() gives the same without blocking.
   */
  stats(): DeviceStats {
    return statsNow(this.number)
  }

  /**
   * What the program has asked of the device so far, at no wait: live bytes, the most of them since the last call with
   * `mark`, and FLOPs. Equal to stats() once the device is idle.
   */
  program(mark = false): { liveBytes: number; peakBytes: number; flops: number } {
    addon.program(this.number, counts, mark)
    return { liveBytes: counts[0], peakBytes: counts[1], flops: counts[2] }
  }

  /** Per operator: calls, seconds, FLOPs, bytes. `reset` starts the count anew. */
  profile(reset = false): OpProfile[] {
    return addon.profile(this.number, reset)
  }

  resetPeak(): void {
    addon.resetPeak(this.number)
  }

  /** Live bytes beyond which an operator fails with ERR_OUT_OF_MEMORY; 0 takes the limit away. */
  setMemoryLimit(bytes: number): void {
    addon.setLimit(this.number, bytes)
  }

  /** Resolves when everything asked for so far is done; rejects with the first error since the last clearError(). */
  synchronize(): Promise<DeviceStats> {
    return fence(this.number)
  }

  /** After an asynchronous error: lets the device work again. Tensors that were never computed stay unusable. */
  clearError(): void {
    addon.clearError(this.number)
  }

  /** While on, the first operator whose result holds a NaN or infinity is remembered. Costs a pass over each result. */
  checkNonfinite(on: boolean): void {
    addon.checkNonfinite(this.number, on)
  }

  /**
   * While on, tensors have guard bytes round them and start as NaN, and an operator that writes outside of its tensors
   * fails with ERR_KERNEL. For tests of operators: costs a pass over each result.
   */
  checkGuards(on: boolean): void {
    addon.checkGuards(this.number, on)
  }

  /**
   * Runs `body`, which enqueues one step of work that repeats itself, such as a training step. Where the device has graphs,
   * the step is started as a whole once it is known; the numbers are the same.
   */
  repeating<T>(body: () => T): T {
    addon.beginStep(this.number)
    try {
      return body()
    } finally {
      addon.endStep(this.number)
    }
  }

  /**
   * While on, profile() has the seconds that the device itself measured, at the price of some microseconds an operator and
   * of no graphs. On the CPU they always are.
   */
  timeOperators(on: boolean): void {
    addon.timeOperators(this.number, on)
  }

  /** The n-th placement of a tensor from now on fails as if memory had run out; 0: none. For tests of what happens then. */
  failPlacement(n: number): void {
    addon.failPlacement(this.number, n)
  }

  /** That operator with its shapes, or '' when there was none. */
  firstNonfinite(): string {
    return addon.firstNonfinite(this.number)
  }

  /** What the device says of itself: description, memory, power and energy. */
  facts(): DeviceFacts {
    return addon.facts(this.number)
  }

  toString(): string {
    return this.name
  }
}

const counts = new Float64Array(3)
const devices: Device[] = []
let cudaAbsent: string | undefined
addDevices()

function addDevices(): void {
  for (const [number, name] of addon.devices().entries()) devices[number] ??= new Device(name, number)
}

// The CUDA plug-in is loaded by whoever first asks for one of its devices, or for the list.
function loadCuda(): string {
  if (cudaAbsent === undefined) {
    cudaAbsent = addon.loadCuda()
    addDevices()
  }
  return cudaAbsent
}

/** Tensor handles alive in this Node environment, on all devices. */
export function liveHandles(): number {
  return addon.liveHandles()
}

/** All devices of this process. */
export function listDevices(): readonly Device[] {
  loadCuda()
  return devices
}

/** Why there is no CUDA device, in a sentence with what to do; '' when there is one. */
export function cudaAbsence(): string {
  return loadCuda()
}

let defaultName = 'cpu'
/** The device of tensors, models and random numbers that are made without naming one: 'cpu' unless set. */
export function setDefaultDevice(name: string | Device): void {
  defaultName = getDevice(name).name
}

/** A device by name: 'cpu', 'meta', 'cuda', 'cuda:1'; 'auto' is the first CUDA device, or else the CPU. Without a name, the default. */
export function getDevice(name: string | Device = defaultName): Device {
  if (typeof name !== 'string') return name
  if (name === 'auto') return loadCuda() === '' ? getDevice('cuda:0') : devices[0]
  const full = name === 'cuda' ? 'cuda:0' : name
  const reason = full.startsWith('cuda') ? loadCuda() : ''
  const found = devices.find((device) => device.name === full)
  if (found) return found
  const known = devices.map((device) => `'${device.name}'`).join(', ')
  throw new LeanformerError('ERR_DEVICE', `device '${name}' is not here${reason && `: ${reason}`}`, `devices here: ${known}`)
}

export function deviceByNumber(number: number): Device {
  return devices[number]
}
