// The addon's functions as TypeScript sees them. Only lib/native and lib/tensor/device use it; everything else goes
// through call() and Device.
import { loadAddon } from './addon'

interface OpStats {
  op: string
  calls: number
  seconds: number
  flops: number
  bytesRead: number
  bytesWritten: number
}

/** Numbers that the device cannot tell are negative. */
export interface DeviceFacts {
  /** Name, capability and driver; '' for the CPU. */
  description: string
  memoryBytes: number
  freeBytes: number
  /** Power now. */
  watts: number
  /** Energy since the driver was loaded. */
  joules: number
  celsius: number
}

/** Numbers returned by call, view, copyTo, release, create, read and fence are error codes: 0, or a position in errorCodes. */
interface Addon {
  init(words: Float64Array, onComplete: (id: number, code: number, message: string, hint: string) => void): void
  call(used: number): number
  view(): number
  copyTo(): number
  release(handle: number): number
  create(bytes: Uint8Array): number
  lastError(): [message: string, hint: string]
  read(handle: number, destination: Uint8Array, id: number): number
  fence(device: number, id: number, stats: Float64Array): number
  waitIdle(device: number): void
  clearError(device: number): void
  resetPeak(device: number): void
  setLimit(device: number, bytes: number): void
  checkNonfinite(device: number, on: boolean): void
  checkGuards(device: number, on: boolean): void
  enterBranch(device: number, branch: number): void
  beginStep(device: number): void
  endStep(device: number): void
  timeOperators(device: number, on: boolean): void
  failPlacement(device: number, n: number): void
  firstNonfinite(device: number): string
  devices(): string[]
  loadCuda(): string
  facts(device: number): DeviceFacts
  stats(device: number, stats: Float64Array): void
  liveHandles(): number
  program(device: number, counts: Float64Array, reset: boolean): void
  openPager(folder: string): number
  closePager(pager: number): void
  pageOut(handle: number, pager: number): number
  pageIn(handle: number): number
  prefetch(handle: number): number
  pagerStats(pager: number, stats: Float64Array): number
  profile(device: number, reset: boolean): OpStats[]
  ops(): string
  opsHash(): number
  hasKernel(device: number, op: number): boolean
  setThreads(count: number): void
  threads(): number
  /** sparseBlocks: whether the CUDA plug-in's library multiplies by sparse matrices of blocks. */
  buildInfo(): { build: string; isa: string; sparseBlocks: boolean }
  measurePeaks(): { f32Gflops: number; bf16Gflops: number; bandwidthGbs: number }
}

export const addon = loadAddon<Addon>()
