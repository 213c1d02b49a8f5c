// Power and energy of a device that can tell them (NVML on an NVIDIA GPU). The whole device is counted, whoever uses it.
import type { Device } from '../tensor/device'

const millisecondsBetween = 500 // a reading takes the driver some of one

export interface EnergyReading {
  /** Power at the last reading. */
  watts: number
  /** Energy from start() to the last reading. */
  joules: number
}

export class EnergyMeter {
  private first = -1
  private readAt = -Infinity
  private last: EnergyReading | undefined

  constructor(private readonly device: Device) {}

  start(): void {
    this.first = this.device.facts().joules
    this.readAt = -Infinity
  }

  /** A reading at most half a second old; undefined where the device cannot tell. */
  read(): EnergyReading | undefined {
    if (this.first < 0) return undefined
    const now = performance.now()
    if (now - this.readAt >= millisecondsBetween) {
      const { watts, joules } = this.device.facts()
      this.last = { watts, joules: joules - this.first }
      this.readAt = now
    }
    return this.last
  }
}
