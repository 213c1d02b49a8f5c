// Which keys a query sees: patterns for blockSparseAttention(). Local windows, the strided and fixed patterns of the Sparse
// Transformer (Child et al., arXiv 1904.10509), Longformer's dilated windows with global tokens (Beltagy et al.,
// arXiv 2004.05150), BigBird's window, global and random blocks (Zaheer et al., arXiv 2007.14062), and any other.
import { LeanformerError } from '../native/errors'
import type { BlockSizes, Pattern } from '../ops/block_sparse_attention'
import { hostRandom } from '../tensor/random'

function check(name: string, values: Record<string, number>, least = 1): void {
  for (const [key, value] of Object.entries(values)) {
    if (Number.isInteger(value) && value >= least) continue
    throw new LeanformerError('ERR_ARGUMENT', `${name}: ${key} is ${value}`, `give a whole number from ${least} on`)
  }
}

function* range(first: number, last: number): Iterable<number> {
  for (let i = first; i <= last; ++i) yield i
}

const clamp = (x: number, low: number, high: number) => Math.min(high, Math.max(low, x))

/** Blocks with a key of positions `low` to `high`. */
function blocksBetween(low: number, high: number, { keys, block }: BlockSizes): Iterable<number> {
  if (high < 0 || low >= keys) return []
  return range(Math.floor(clamp(low, 0, keys - 1) / block), Math.floor(clamp(high, 0, keys - 1) / block))
}

/** Positions of the first and last query of a block. */
function span(row: number, { queries, keys, block }: BlockSizes): [first: number, last: number] {
  const first = row * block + keys - queries
  return [first, Math.min(first + block, keys) - 1]
}

const allBlocks = (sizes: BlockSizes) => blocksBetween(0, sizes.keys - 1, sizes)

/** Everything. */
export function full(): Pattern {
  return { heads: 1, keyBlocks: (_, __, sizes) => allBlocks(sizes), sees: () => true }
}

/** The part of a pattern in which no query sees a later key. */
export function causal(pattern: Pattern): Pattern {
  return {
    heads: pattern.heads,
    *keyBlocks(row, head, sizes) {
      const end = span(row, sizes)[1]
      for (const column of pattern.keyBlocks(row, head, sizes)) if (column * sizes.block <= end) yield column
    },
    sees: (i, j, head, sizes) => j <= i && pattern.sees(i, j, head, sizes),
  }
}

/** |i - j| at most window / 2; with causal(), see also localCausal(). */
export function local(window: number): Pattern {
  check('local', { window })
  const reach = Math.floor(window / 2)
  return {
    heads: 1,
    keyBlocks(row, _, sizes) {
      const [first, last] = span(row, sizes)
      return blocksBetween(first - reach, last + reach, sizes)
    },
    sees: (i, j) => Math.abs(i - j) <= reach,
  }
}

/** The last `window` tokens, its own among them. */
export function localCausal(window: number): Pattern {
  check('localCausal', { window })
  return {
    heads: 1,
    keyBlocks(row, _, sizes) {
      const [first, last] = span(row, sizes)
      return blocksBetween(first - window + 1, last, sizes)
    },
    sees: (i, j) => j <= i && i - j < window,
  }
}

/** Sparse Transformer, strided: even heads see the last `stride` tokens, odd heads every stride-th token before. Causal. */
export function strided(stride: number, heads: number): Pattern {
  check('strided', { stride, heads })
  const near = localCausal(stride)
  return {
    heads,
    keyBlocks: (row, head, sizes) =>
      head % 2 === 0 ? near.keyBlocks(row, head, sizes) : blocksBetween(0, span(row, sizes)[1], sizes),
    sees: (i, j, head) => (head % 2 === 0 ? j <= i && i - j < stride : j <= i && (i - j) % stride === 0),
  }
}

/**
 * Sparse Transformer, fixed: the tokens of the own stretch of `length`, and the last `summary` tokens of every stretch
 * before; with more than one head, each sees others among a stretch's last tokens. Causal.
 */
export function fixed(length: number, summary: number, heads = 1): Pattern {
  check('fixed', { length, summary, heads })
  if (summary * heads > length) {
    throw new LeanformerError('ERR_ARGUMENT', `fixed: ${heads} heads with ${summary} summary tokens are more than a stretch of ${length}`)
  }
  const inSummary = (j: number, head: number) => Math.floor((length - 1 - (j % length)) / summary) === head
  return {
    heads,
    keyBlocks: (row, _, sizes) => blocksBetween(0, span(row, sizes)[1], sizes),
    sees: (i, j, head) => j <= i && (Math.floor(i / length) === Math.floor(j / length) || inSummary(j, head)),
  }
}

/**
 * Longformer: keys i + k dilation with |k| at most window / 2, a dilation for each head; `globals` are tokens that see all
 * and that all see.
 */
export function longformer(window: number, dilations: readonly number[] = [1], globals: readonly number[] = []): Pattern {
  check('longformer', { window, heads: dilations.length })
  for (const dilation of dilations) check('longformer', { dilation })
  const reach = Math.floor(window / 2)
  const everywhere = new Set(globals)
  return {
    heads: dilations.length,
    *keyBlocks(row, head, sizes) {
      const [first, last] = span(row, sizes)
      const far = reach * dilations[head]
      const near = new Set(blocksBetween(first - far, last + far, sizes))
      const whole = globals.some((g) => g >= first && g <= last)
      for (const column of allBlocks(sizes)) {
        if (whole || near.has(column) || globals.some((g) => Math.floor(g / sizes.block) === column)) yield column
      }
    },
    sees(i, j, head) {
      if (everywhere.has(i) || everywhere.has(j)) return true
      const distance = Math.abs(i - j)
      return distance % dilations[head] === 0 && distance <= reach * dilations[head]
    },
  }
}

export interface BigBirdOptions {
  /** Blocks of keys next to the own one, in all with it; default 3. */
  window?: number
  /** Random blocks of keys for each block of queries; default 3. */
  random?: number
  /** The random blocks are a function of it; default 0. */
  seed?: number
  /** Heads with random blocks of their own; default 1 for all alike. */
  heads?: number
  /** Tokens of a block; the layout must be made with the same; default 64. */
  block?: number
}

/** BigBird: a window of blocks, the first and last block as rows and as columns, and random blocks. */
export function bigbird(options: BigBirdOptions = {}): Pattern {
  const { window = 3, random = 3, seed = 0, heads = 1, block = 64 } = options
  check('bigbird', { window, heads, block })
  check('bigbird', { random }, 0)
  const reach = Math.floor(window / 2)
  const chosen = new Map<number, Set<number>>()
  // Blocks of queries and keys are both counted along the keys.
  const blocksOf = (row: number, head: number, count: number): Set<number> => {
    const key = (row * heads + head) * 65_536 + count
    let found = chosen.get(key)
    if (found) return found
    found = new Set([0, count - 1])
    if (row === 0 || row === count - 1) for (let c = 0; c < count; ++c) found.add(c)
    for (let c = row - reach; c <= row + reach; ++c) if (c >= 0 && c < count) found.add(c)
    const others = Array.from({ length: count }, (_, c) => c).filter((c) => !found!.has(c))
    const { uniform } = hostRandom({ seed, offset: key })
    for (let r = 0; r < random && others.length; ++r) found.add(others.splice(Math.floor(uniform() * others.length), 1)[0])
    chosen.set(key, found)
    return found
  }
  return {
    heads,
    keyBlocks(row, head, sizes) {
      const offset = sizes.keys - sizes.queries
      if (sizes.block !== block || offset % block !== 0) {
        throw new LeanformerError('ERR_ARGUMENT', `bigbird: made for blocks of ${block}, not for ${sizes.block} with ${sizes.keys - sizes.queries} earlier keys`)
      }
      return [...blocksOf(row + offset / block, head, Math.ceil(sizes.keys / block))].sort((a, b) => a - b)
    },
    sees: (i, j, head, { keys }) =>
      blocksOf(Math.floor(i / block), head, Math.ceil(keys / block)).has(Math.floor(j / block)),
  }
}

/** A pattern of whole blocks from a table: blocks[head][block of queries][block of keys]; one head stands for all. */
export function custom(blocks: readonly (readonly (readonly boolean[])[])[], block: number): Pattern {
  check('custom', { heads: blocks.length, block })
  return {
    heads: blocks.length,
    *keyBlocks(row, head, sizes) {
      const line = blocks[head][row + Math.floor((sizes.keys - sizes.queries) / block)]
      if (sizes.block !== block || !line || line.length < Math.ceil(sizes.keys / block)) {
        throw new LeanformerError('ERR_ARGUMENT', `custom: the table of blocks of ${block} does not hold ${sizes.keys} keys in blocks of ${sizes.block}`)
      }
      for (const column of allBlocks(sizes)) if (line[column]) yield column
    },
    sees: (i, j, head) => blocks[head][Math.floor(i / block)][Math.floor(j / block)],
  }
}
