// Attention over listed (query, key) pairs: what is not listed costs nothing, however the pairs lie. On CUDA the products
// over the list are cuSPARSE's (SDDMM and SpMM): over CSR, or over BSR where the pairs make up whole blocks. Lists come from the
// patterns of lib/attention/patterns.ts, from a mask, or are given. Which of dense, block-sparse and this is right where:
// lib/attention/crossover.ts.
import { record } from '../autograd/tape'
import { addon } from '../native/binding'
import { LeanformerError } from '../native/errors'
import type { Device } from '../tensor/device'
import { keep } from '../tensor/scope'
import { run, tensor, type Tensor } from '../tensor/tensor'
import type { Pattern } from './block_sparse_attention'

export interface CsrSizes {
  queries: number
  keys: number
}

/** Entries in column order that a GPU brings there at a time; csr_attention.cu keeps them in shared memory. */
const turnPiece = 4096

/** Sides of blocks that are looked for, in this order. */
const blockSides = [64, 32, 16]

let layouts = 0

const refuse = (text: string, hint: string) => new LeanformerError('ERR_ARGUMENT', `csrLayout: ${text}`, hint)

/** The pairs of a layout as whole blocks of so many queries and keys. */
export interface CsrBlocks {
  block: number
  /** Whether blocks on the diagonal list those pairs alone that the causal rule leaves; so it has to hide the others. */
  causal: boolean
  /** As in the layout, of blocks. */
  rowStarts: Int32Array
  columns: Int32Array
}

/** What a call on a device gets: lists of pairs, or of blocks. */
export interface CsrLists {
  /** 1: pairs. */
  block: number
  causal: boolean
  entries: number[]
  /** row_starts, columns, column_starts, column_rows, places; of pairs on a GPU also turn_starts, turn_quads and turn_order. */
  tensors: Tensor[]
}

/** A pattern's pairs for one number of queries and keys: for each pattern and query, its keys in order. */
export class CsrLayout {
  /** Tells layouts apart, for plans that a device keeps. */
  readonly id = ++layouts
  /** Pairs that a GPU computes as one sparse matrix, at most: enough to keep it busy, and the lists stay small. */
  mostStacked = 1 << 22
  /**
   * Whether a GPU computes whole blocks as such, and not pair by pair. Off, as cuSPARSE 12.6 takes twice to three times as long by
   * blocks on an H200 (BigBird's blocks of 64, 4096 and 16384 keys) and refuses some small ones: "operation not supported".
   */
  byBlocks = false
  private readonly copies: { device: Device; copies: number; lists: CsrLists }[] = []
  private whole: CsrBlocks | null | undefined

  /** @throws ERR_ARGUMENT where the lists are not those of a CSR matrix with columns in order */
  constructor(
    readonly sizes: CsrSizes,
    /** [patterns * queries + 1]: where the pairs of each query begin, one pattern after the other. */
    readonly rowStarts: Int32Array,
    /** The key of each pair; those of a query grow. */
    readonly columns: Int32Array,
    /** One pattern for all heads, or one for each of so many. */
    readonly patterns: number,
  ) {
    const { queries, keys } = sizes
    if (rowStarts.length !== patterns * queries + 1 || rowStarts[0] !== 0 || rowStarts[patterns * queries] !== columns.length) {
      throw refuse(`${rowStarts.length} row starts do not hold ${columns.length} pairs of ${patterns} patterns and ${queries} queries`, 'give patterns * queries + 1 numbers, from 0 to the number of pairs')
    }
    for (let row = 0; row < patterns * queries; ++row) {
      if (rowStarts[row + 1] < rowStarts[row]) throw refuse(`row ${row} starts at ${rowStarts[row]} and ends at ${rowStarts[row + 1]}`, 'row starts never fall')
      for (let e = rowStarts[row]; e < rowStarts[row + 1]; ++e) {
        if (columns[e] < 0 || columns[e] >= keys) throw refuse(`query ${row % queries} lists the key ${columns[e]}`, `keys are counted from 0 to ${keys - 1}`)
        if (e > rowStarts[row] && columns[e] <= columns[e - 1]) throw refuse(`query ${row % queries} lists the key ${columns[e]} after ${columns[e - 1]}`, 'list each key once, in order')
      }
    }
  }

  /** Pairs listed, of all there are. */
  get density(): number {
    return this.columns.length / (this.patterns * this.sizes.queries * this.sizes.keys)
  }

  /** Whether a query sees a key. */
  sees(query: number, key: number, head: number): boolean {
    const row = (this.patterns === 1 ? 0 : head) * this.sizes.queries + query
    return this.columns.subarray(this.rowStarts[row], this.rowStarts[row + 1]).includes(key)
  }

  /** The pairs as blocks, the largest that there are; null where they are not whole blocks. */
  get blocks(): CsrBlocks | null {
    if (this.whole === undefined) {
      this.whole = null
      for (const block of blockSides) {
        this.whole ??= this.asBlocks(block, false) ?? this.asBlocks(block, true)
      }
    }
    return this.whole
  }

  /**
   * @internal The lists of enough stacked copies for a call with so many (batch entry, head) pairs. A CPU needs no copies; on a GPU
   * the copies together should keep it busy, and places of pairs are slots.
   */
  on(device: Device, pairs: number, group: number): CsrLists {
    const { queries, keys } = this.sizes
    const unit = this.patterns === 1 ? group : this.patterns
    const perUnit = Math.max(1, (unit / this.patterns) * this.columns.length, unit * Math.max(queries, keys))
    const gpu = device.name.startsWith('cuda')
    const wanted = gpu ? Math.min(pairs, Math.max(1, Math.floor(this.mostStacked / perUnit)) * unit) : this.patterns
    const copies = Math.max(wanted, this.patterns)
    let found = this.copies.find((each) => each.device === device && each.copies >= copies)
    if (!found) {
      if (copies * Math.max(queries, keys) > 0x7fffffff || (copies / this.patterns) * this.columns.length > 0x7fffffff) {
        throw refuse(`${this.columns.length} pairs are too many`, 'give fewer than 2^31 pairs for the heads of a group')
      }
      const list = (values: Int32Array) => keep(tensor(values, [values.length], { device, dtype: 'i32' }))
      const blocks = gpu && this.byBlocks && addon.buildInfo().sparseBlocks ? this.blocks : null
      const { block, causal, rowStarts, columns } = blocks ?? { block: 1, causal: false, rowStarts: this.rowStarts, columns: this.columns }
      const [rows, keyRows] = [queries / block, keys / block]
      const lists = this.stacked(copies, rows, keyRows, rowStarts, columns)
      if (gpu && !blocks) lists.splice(4, 1, ...turnLists(lists[4]))
      const entries = Array.from({ length: this.patterns }, (_, p) => (rowStarts[(p + 1) * rows] - rowStarts[p * rows]) * block * block)
      found = { device, copies, lists: { block, causal, entries, tensors: lists.map(list) } }
      this.copies.push(found)
    }
    return found.lists
  }

  dispose(): void {
    for (const { lists } of this.copies) for (const each of lists.tensors) each.dispose()
    this.copies.length = 0
  }

  private asBlocks(block: number, causal: boolean): CsrBlocks | null {
    const { queries, keys } = this.sizes
    if (this.columns.length === 0 || queries % block || keys % block) return null
    const rows = (this.patterns * queries) / block
    const rowStarts = new Int32Array(rows + 1)
    const columns: number[] = []
    for (let row = 0; row < rows; ++row) {
      // The last query of a block sees most of it.
      const last = row * block + block - 1
      const line = this.columns.subarray(this.rowStarts[last], this.rowStarts[last + 1])
      const from = columns.length
      for (let e = 0; e < line.length; ++e) if (e === 0 || Math.floor(line[e] / block) !== Math.floor(line[e - 1] / block)) columns.push(Math.floor(line[e] / block))
      const own = columns.slice(from)
      for (let query = row * block; query <= last; ++query) {
        const limit = causal ? (query % queries) + keys - queries : keys - 1
        let e = this.rowStarts[query]
        for (const column of own) {
          for (let key = column * block; key < (column + 1) * block && key <= limit; ++key, ++e) {
            if (e === this.rowStarts[query + 1] || this.columns[e] !== key) return null
          }
        }
        if (e !== this.rowStarts[query + 1]) return null
      }
      rowStarts[row + 1] = columns.length
    }
    return { block, causal, rowStarts, columns: Int32Array.from(columns) }
  }

  /** Lists of `queries` rows and `keys` columns for each pattern, `copies` along the diagonal, by rows and by columns. */
  private stacked(copies: number, queries: number, keys: number, ownStarts: Int32Array, ownColumns: Int32Array): Int32Array[] {
    const total = (copies / this.patterns) * ownColumns.length
    const rowStarts = new Int32Array(copies * queries + 1)
    const columns = new Int32Array(total)
    const columnStarts = new Int32Array(copies * keys + 1)
    let at = 0
    for (let copy = 0; copy < copies; ++copy) {
      const first = (copy % this.patterns) * queries
      for (let row = 0; row < queries; ++row) {
        for (let e = ownStarts[first + row]; e < ownStarts[first + row + 1]; ++e) {
          columns[at++] = copy * keys + ownColumns[e]
          columnStarts[copy * keys + ownColumns[e] + 1]++
        }
        rowStarts[copy * queries + row + 1] = at
      }
    }
    for (let column = 0; column < copies * keys; ++column) columnStarts[column + 1] += columnStarts[column]
    const next = columnStarts.slice()
    const columnRows = new Int32Array(total)
    const places = new Int32Array(total)
    for (let row = 0; row < copies * queries; ++row) {
      for (let e = rowStarts[row]; e < rowStarts[row + 1]; ++e) {
        places[e] = next[columns[e]]++
        columnRows[places[e]] = row
      }
    }
    return [rowStarts, columns, columnStarts, columnRows, places]
  }
}

/**
 * How a GPU brings numbers of entries from the order of rows into that of columns, `turnPiece` of the latter at a time, through
 * shared memory. Piece i finds its entries in the groups of four quads[starts[i]] .. quads[starts[i + 1] - 1], entries 4 * quad to
 * 4 * quad + 3. 16 threads store at once, entry k of 16 quads, and 16 load at once, neighbouring places; so among the 16 places
 * from a multiple of 16 on, slots are dealt out in such a way that those of either kind lie in different banks. slots[entry] is the
 * place but for the lowest four bits; those of place p's slot are bits 4 * (p % 8) and up of order[p >> 3].
 */
function turnLists(places: Int32Array): [slots: Int32Array, starts: Int32Array, quads: Int32Array, order: Int32Array] {
  const total = places.length
  const sources = new Int32Array(total)
  for (let e = 0; e < total; ++e) sources[places[e]] = e >> 2
  const starts = new Int32Array(Math.ceil(total / turnPiece) + 1)
  const quads = new Int32Array(total)
  const stores = new Int32Array(total)
  let [count, stored] = [0, 0]
  for (let piece = 0; piece + 1 < starts.length; ++piece) {
    for (const quad of sources.subarray(piece * turnPiece, (piece + 1) * turnPiece).sort()) {
      if (count > starts[piece] && quads[count - 1] === quad) continue
      for (let e = 4 * quad; e < Math.min(4 * quad + 4, total); ++e) {
        if (Math.floor(places[e] / turnPiece) === piece) stores[e] = 4 * (stored + ((count - starts[piece]) >> 4)) + (e & 3)
      }
      quads[count++] = quad
    }
    starts[piece + 1] = count
    stored += (count - starts[piece] + 15) >> 4
  }
  const banks = differentBanks(stores, places.map((place) => place >> 4))
  const order = new Int32Array(2 * Math.ceil(total / 16))
  for (const [e, place] of places.entries()) order[place >> 3] |= banks[e] << (4 * (place & 7))
  return [places.map((place, e) => (place & ~15) | banks[e]), starts, quads.slice(0, count), order]
}

/**
 * Numbers 0 to 15, different ones within each group of `a` and within each of `b`, which have at most 16 entries. An edge colouring
 * of a bipartite graph: entries are paired within their groups, neighbours along the chains of pairs go to different halves, and
 * each half is halved again, four times.
 */
function differentBanks(a: Int32Array, b: Int32Array): Uint8Array {
  const total = a.length
  const banks = new Uint8Array(total)
  for (let bit = 0; bit < 4; ++bit) {
    const pairs = [a, b].map((groups) => {
      const pair = new Int32Array(total).fill(-1)
      const open = new Int32Array((groups.reduce((most, group) => Math.max(most, group), 0) + 1) << bit).fill(-1)
      for (let e = 0; e < total; ++e) {
        const half = (groups[e] << bit) | banks[e]
        const other = open[half]
        open[half] = other < 0 ? e : -1
        if (other < 0) continue
        pair[e] = other
        pair[other] = e
      }
      return pair
    })
    const sides = new Int8Array(total).fill(-1)
    for (let first = 0; first < total; ++first) {
      if (sides[first] >= 0) continue
      sides[first] = 0
      for (const way of [0, 1]) {
        let at = first
        for (let step = way; ; step = 1 - step) {
          const next = pairs[step][at]
          if (next < 0 || sides[next] >= 0) break
          sides[next] = 1 - sides[at]
          at = next
        }
      }
    }
    for (let e = 0; e < total; ++e) banks[e] = (banks[e] << 1) | sides[e]
  }
  return banks
}

/** A layout from the keys that each query lists: lists[query], or lists[head][query]. @throws ERR_ARGUMENT */
export function csrFromLists(lists: readonly (readonly number[])[] | readonly (readonly (readonly number[])[])[], keys: number): CsrLayout {
  const nested = lists.some((line) => (line as readonly unknown[]).some(Array.isArray))
  const patterns = (nested ? lists : [lists]) as readonly (readonly (readonly number[])[])[]
  const queries = patterns[0].length
  const wrong = patterns.find((pattern) => pattern.length !== queries)
  if (wrong) throw refuse(`heads list ${queries} and ${wrong.length} queries`, 'list as many queries for each head')
  const rowStarts = new Int32Array(patterns.length * queries + 1)
  let pairs = 0
  for (const [i, line] of patterns.flat().entries()) {
    for (const key of line) if (!Number.isInteger(key)) throw refuse(`query ${i % queries} lists the key ${key}`, 'keys are whole numbers')
    rowStarts[i + 1] = pairs += line.length
  }
  const columns = new Int32Array(pairs)
  for (const [i, line] of patterns.flat().entries()) columns.set(line, rowStarts[i])
  return new CsrLayout({ queries, keys }, rowStarts, columns, patterns.length)
}

/** A layout from a mask [patterns, queries, keys], not zero where a query sees a key. @throws ERR_ARGUMENT */
export function csrFromMask(mask: ArrayLike<number | boolean>, { queries, keys }: CsrSizes, patterns = 1): CsrLayout {
  if (mask.length !== patterns * queries * keys) {
    throw refuse(`a mask of ${mask.length} is not [${patterns}, ${queries}, ${keys}]`, `give ${patterns * queries * keys} numbers`)
  }
  const rowStarts = new Int32Array(patterns * queries + 1)
  const columns: number[] = []
  for (let row = 0; row < patterns * queries; ++row) {
    for (let key = 0; key < keys; ++key) if (mask[row * keys + key]) columns.push(key)
    rowStarts[row + 1] = columns.length
  }
  return new CsrLayout({ queries, keys }, rowStarts, Int32Array.from(columns), patterns)
}

/**
 * Lists the pairs of a pattern. `block` is the one that the pattern was made with, where it was (bigbird, custom).
 * @throws ERR_ARGUMENT
 */
export function csrLayout(pattern: Pattern, sizes: CsrSizes, block = 64): CsrLayout {
  const { queries, keys } = sizes
  for (const [name, value] of Object.entries({ queries, keys, block })) {
    if (!Number.isInteger(value) || value < (name === 'block' ? 1 : 0)) throw refuse(`${name} is ${value}`, 'give a whole number')
  }
  const blocks = { queries, keys, block }
  const rowStarts = new Int32Array(pattern.heads * queries + 1)
  const columns: number[] = []
  for (let head = 0; head < pattern.heads; ++head) {
    for (let row = 0; row * block < queries; ++row) {
      const near = [...pattern.keyBlocks(row, head, blocks)]
      for (let query = row * block; query < Math.min(queries, (row + 1) * block); ++query) {
        for (const column of near) {
          const end = Math.min(keys, (column + 1) * block)
          for (let key = column * block; key < end; ++key) if (pattern.sees(query + keys - queries, key, head, blocks)) columns.push(key)
        }
        rowStarts[head * queries + query + 1] = columns.length
      }
    }
  }
  return new CsrLayout({ queries, keys }, rowStarts, Int32Array.from(columns), pattern.heads)
}

export interface CsrAttentionOptions {
  heads: number
  /** Key and value heads; fewer than `heads` for grouped queries. Default: heads. */
  kvHeads?: number
  /** Factor of the scores; default 1 / sqrt(head width). */
  scale?: number
  /** Of the listed keys, a query sees no later one. The last query stands at the last key. */
  causal?: boolean
  /** bool [batch, keys]: false for padding, which nobody sees. */
  keyMask?: Tensor | null
  /** i32 [batch, tokens]: tokens see only their own segment (packed samples). */
  segments?: Tensor | null
}

/**
 * q [batch, queries, heads, width], k and v [batch, keys, kvHeads, width] -> like q, over the pairs of `layout`, which was
 * made for as many queries and keys. A query that sees no key gives zeros. f32, f16, bf16 (computed in f32) and f64.
 * @throws ERR_SHAPE, ERR_DTYPE, ERR_ARGUMENT
 */
export function csrAttention(q: Tensor, k: Tensor, v: Tensor, layout: CsrLayout, options: CsrAttentionOptions): Tensor {
  const { queries, keys } = layout.sizes
  if (q.shape[1] !== queries || k.shape[1] !== keys) {
    throw new LeanformerError(
      'ERR_SHAPE',
      `csrAttention: the layout is for ${queries} queries and ${keys} keys, not for ${q.shape[1]} and ${k.shape[1]}`,
      'make a layout for these sizes with csrLayout()',
    )
  }
  const { heads, kvHeads = heads, scale = 0, causal = false } = options
  const { block, causal: ruled, entries, tensors: lists } = layout.on(q.device, q.shape[0] * heads, Math.max(1, Math.floor(heads / kvHeads)))
  const attrs = { heads, kv_heads: kvHeads, causal: causal || ruled, scale, entries, layout: layout.id, block }
  const masks = [options.keyMask ?? null, options.segments ?? null]
  const [out, lse] = run('csr_attention', [q, k, v, ...lists.slice(0, 2), ...masks], attrs)
  const turns = [lists[5] ?? null, lists[6] ?? null, lists[7] ?? null]
  record('csr_attention', [q, k, v], [out], [q, k, v, lse, ...lists.slice(0, 5), ...masks, ...turns], ([grad], saved) => {
    const g = grad!.dtype === saved[0]!.dtype ? grad! : run('cast', [grad!], { dtype: saved[0]!.dtype })[0]
    return run('csr_attention_backward', [g, ...saved], attrs)
  })
  return out
}
