// A place outside of the device's memory for tensors that nobody needs for a while: a file, or host memory. A tensor that is
// away comes back by itself when an operator uses it, so where it is never changes a number.
import { addon } from '../native/binding'
import { nativeError, resultOfCall } from '../native/call'
import type { Tensor } from './tensor'

export interface PagerStats {
  /** To and from the file so far. */
  bytesWritten: number
  bytesRead: number
  fileBytes: number
  /** How long the device waited for it. */
  waitSeconds: number
}

const abandoned = new FinalizationRegistry<number>((number) => addon.closePager(number))

/** Closed when nobody holds it any more, or by close(). */
export class Pager {
  private readonly number: number

  /** `folder`: where the file is made, which has no name and is gone with the process; null: host memory. @throws ERR_IO */
  constructor(folder: string | null) {
    check(addon.openPager(folder ?? ''))
    this.number = resultOfCall()
    abandoned.register(this, this.number)
  }

  /**
   * Takes the tensor out of the device's memory, with everything else that shares its memory. A GPU copies it beside its kernels,
   * into page-locked memory; where there is none left, the device fails with ERR_OUT_OF_MEMORY.
   */
  pageOut(tensor: Tensor): void {
    check(addon.pageOut(tensor.handle, this.number))
  }

  /** Brings it back now, where it is away. */
  pageIn(tensor: Tensor): void {
    check(addon.pageIn(tensor.handle))
  }

  /**
   * Begins to bring what will be needed soon, while the device goes on: a file is read, and from the host's memory a GPU copies it
   * into memory that it has to spare. It counts as live from its first use.
   */
  prefetch(tensor: Tensor): void {
    check(addon.prefetch(tensor.handle))
  }

  stats(): PagerStats {
    const values = new Float64Array(4)
    check(addon.pagerStats(this.number, values))
    const [bytesWritten, bytesRead, fileBytes, waitSeconds] = values
    return { bytesWritten, bytesRead, fileBytes, waitSeconds }
  }

  /** Tensors that are away stay usable. */
  close(): void {
    addon.closePager(this.number)
  }
}

function check(code: number): void {
  if (code !== 0) throw nativeError(code)
}
