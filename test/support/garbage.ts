// Forced garbage collection, for tests of exact bytes and of leaks. Tensors that an earlier test dropped without dispose()
// are released by finalizers, at a moment of V8's choosing; after this, none of them is left to change a count.
import { setImmediate } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

/** Collects, and lets the finalizers run: they are tasks of their own, and may leave garbage themselves. */
export async function collectGarbage(): Promise<void> {
  for (let round = 0; round < 3; ++round) {
    gc()
    await setImmediate()
  }
}
