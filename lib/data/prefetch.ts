// Reads ahead: up to `depth` items of an iterable are asked for before they are wanted, so that reading and encoding
// overlap with the training step that the consumer awaits.

import { LeanformerError } from '../native/errors'

export async function* prefetch<T>(source: Iterable<T> | AsyncIterable<T>, depth = 2): AsyncGenerator<T> {
  if (!Number.isSafeInteger(depth) || depth < 1) {
    throw new LeanformerError('ERR_ARGUMENT', `prefetch: depth is ${depth}`, 'give a positive integer')
  }
  const items: T[] = []
  let finished = false
  let failure: { error: unknown } | undefined
  let wake: () => void = () => {}
  const changed = () => new Promise<void>((resolve) => (wake = resolve))

  const read = async (): Promise<void> => {
    try {
      for await (const item of source) {
        if (finished) return
        items.push(item)
        wake()
        while (items.length >= depth && !finished) await changed()
        if (finished) return
      }
    } catch (error) {
      failure = { error }
    }
    finished = true
    wake()
  }
  void read()
  try {
    for (;;) {
      while (items.length === 0 && !finished) await changed()
      if (items.length > 0) {
        const item = items.shift()!
        wake()
        yield item
      } else if (failure) {
        throw failure.error
      } else {
        return
      }
    }
  } finally {
    finished = true
    wake()
  }
}
