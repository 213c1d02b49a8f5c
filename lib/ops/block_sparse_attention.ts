// Attention over a part of the [queries, keys] scores: blocks that a layout does not list are skipped, in time and in FLOPs;
// blocks that are seen in part have a mask. Layouts come from patterns, see lib/attention/patterns.ts.
import { record } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import type { Device } from '../tensor/device'
import { keep } from '../tensor/scope'
import { run, tensor, type Tensor } from '../tensor/tensor'

/** Which keys a query may see; queries and keys are counted along the keys, so the last query stands at the last key. */
export interface Pattern {
  /** One pattern for all heads, or one for each of so many. */
  heads: number
  /** Blocks of keys that a block of queries may see anything of; others are not looked at. In order, without repetition. */
  keyBlocks(queryBlock: number, head: number, sizes: BlockSizes): Iterable<number>
  sees(query: number, key: number, head: number, sizes: BlockSizes): boolean
}

export interface BlockSizes {
  queries: number
  keys: number
  block: number
}

/** A pattern's blocks for one number of queries and keys. i32 lists; masks bool [masks, block, block]. */
export class BlockLayout {
  private readonly copies = new Map<Device, Tensor[]>()

  constructor(
    readonly sizes: BlockSizes,
    /** [patterns, query blocks + 1]: where the entries of each block of queries begin. */
    readonly rowStarts: Int32Array,
    /** Block of keys of each entry. */
    readonly columns: Int32Array,
    /** Mask of each entry, -1 for none. */
    readonly maskIds: Int32Array,
    readonly masks: Uint8Array,
    readonly patterns: number,
  ) {}

  /** Blocks listed, of all there are. */
  get density(): number {
    const { queries, keys, block } = this.sizes
    return this.columns.length / (this.patterns * Math.ceil(queries / block) * Math.ceil(keys / block))
  }

  /** Whether a query sees a key. */
  sees(query: number, key: number, head: number): boolean {
    const { queries, block } = this.sizes
    const pattern = this.patterns === 1 ? 0 : head
    const row = pattern * (Math.ceil(queries / block) + 1) + Math.floor(query / block)
    for (let entry = this.rowStarts[row]; entry < this.rowStarts[row + 1]; ++entry) {
      if (this.columns[entry] !== Math.floor(key / block)) continue
      const mask = this.maskIds[entry]
      return mask < 0 || this.masks[(mask * block + (query % block)) * block + (key % block)] === 1
    }
    return false
  }

  /** @internal row_starts, columns, mask_ids, masks; then column_starts, column_entries, entry_rows. Made once a device. */
  on(device: Device): Tensor[] {
    let found = this.copies.get(device)
    if (!found) {
      const { block } = this.sizes
      const rows = this.rowStarts.length / this.patterns
      const ids = (values: Int32Array, shape: number[]) => keep(tensor(values, shape, { device, dtype: 'i32' }))
      const list = (values: Int32Array) => ids(values, [values.length])
      const { columnStarts, columnEntries, entryRows } = this.byColumn()
      found = [
        ids(this.rowStarts, [this.patterns, rows]),
        list(this.columns),
        list(this.maskIds),
        keep(tensor(this.masks, [this.masks.length / (block * block), block, block], { device, dtype: 'bool' })),
        ids(columnStarts, [this.patterns, columnStarts.length / this.patterns]),
        list(columnEntries),
        list(entryRows),
      ]
      this.copies.set(device, found)
    }
    return found
  }

  dispose(): void {
    for (const tensors of this.copies.values()) for (const each of tensors) each.dispose()
    this.copies.clear()
  }

  /** The same entries by blocks of keys: where those of each begin, the entries in order of their rows, and their rows. */
  private byColumn(): { columnStarts: Int32Array; columnEntries: Int32Array; entryRows: Int32Array } {
    const { queries, keys, block } = this.sizes
    const [rows, columns] = [Math.ceil(queries / block), Math.ceil(keys / block)]
    const columnStarts = new Int32Array(this.patterns * (columns + 1))
    const columnEntries = new Int32Array(this.columns.length)
    const entryRows = new Int32Array(this.columns.length)
    for (let p = 0; p < this.patterns; ++p) {
      const lists: number[][] = Array.from({ length: columns }, () => [])
      const starts = this.rowStarts.subarray(p * (rows + 1), (p + 1) * (rows + 1))
      for (let row = 0; row < rows; ++row) {
        for (let entry = starts[row]; entry < starts[row + 1]; ++entry) {
          lists[this.columns[entry]].push(entry)
          entryRows[entry] = row
        }
      }
      let at = starts[0]
      for (const [column, list] of lists.entries()) {
        columnStarts[p * (columns + 1) + column] = at
        columnEntries.set(list, at)
        at += list.length
      }
      columnStarts[p * (columns + 1) + columns] = at
    }
    return { columnStarts, columnEntries, entryRows }
  }
}

const blockSizes = [16, 32, 64, 128]

/** Lists the blocks of a pattern. @throws ERR_ARGUMENT for a block size that there is not */
export function blockLayout(pattern: Pattern, sizes: BlockSizes): BlockLayout {
  const { queries, keys, block } = sizes
  if (!blockSizes.includes(block)) {
    throw new LeanformerError('ERR_ARGUMENT', `blockLayout: block is ${block}`, `give one of ${blockSizes.join(', ')}`)
  }
  const rowStarts: number[] = []
  const columns: number[] = []
  const maskIds: number[] = []
  const masks = new Map<string, { id: number; mask: Uint8Array }>()
  const offset = keys - queries
  for (let head = 0; head < pattern.heads; ++head) {
    for (let row = 0; row * block < queries; ++row) {
      rowStarts.push(columns.length)
      for (const column of pattern.keyBlocks(row, head, sizes)) {
        const mask = new Uint8Array(block * block)
        let [seen, all] = [0, 0]
        for (let r = 0; r < block && row * block + r < queries; ++r) {
          for (let c = 0; c < block && column * block + c < keys; ++c) {
            all++
            if (pattern.sees(row * block + r + offset, column * block + c, head, sizes)) seen += mask[r * block + c] = 1
          }
        }
        if (seen === 0) continue
        columns.push(column)
        if (seen === all) maskIds.push(-1)
        else {
          const key = Buffer.from(mask.buffer).toString('latin1')
          const known = masks.get(key) ?? { id: masks.size, mask }
          masks.set(key, known)
          maskIds.push(known.id)
        }
      }
    }
    rowStarts.push(columns.length)
  }
  const flat = new Uint8Array(masks.size * block * block)
  for (const { id, mask } of masks.values()) flat.set(mask, id * block * block)
  return new BlockLayout(sizes, Int32Array.from(rowStarts), Int32Array.from(columns), Int32Array.from(maskIds), flat, pattern.heads)
}

export interface BlockSparseAttentionOptions {
  heads: number
  /** Key and value heads; fewer than `heads` for grouped queries. Default: heads. */
  kvHeads?: number
  /** Factor of the scores; default 1 / sqrt(head width). */
  scale?: number
}

/**
 * q [batch, queries, heads, width], k and v [batch, keys, kvHeads, width] -> like q, over the blocks of `layout`, which was
 * made for as many queries and keys. A query that sees no key gives zeros. f32, f16, bf16 (computed in f32) and f64.
 * @throws ERR_SHAPE, ERR_DTYPE, ERR_ARGUMENT
 */
export function blockSparseAttention(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, options: BlockSparseAttentionOptions): Tensor {
  const { queries, keys, block } = layout.sizes
  if (q.shape[1] !== queries || k.shape[1] !== keys) {
    throw new LeanformerError(
      'ERR_SHAPE',
      `blockSparseAttention: the layout is for ${queries} queries and ${keys} keys, not for ${q.shape[1]} and ${k.shape[1]}`,
      'make a layout for these sizes with blockLayout()',
    )
  }
  const attrs = { heads: options.heads, kv_heads: options.kvHeads ?? options.heads, block, scale: options.scale ?? 0 }
  const lists = layout.on(q.device)
  const [out, lse] = run('block_sparse_attention', [q, k, v, ...lists.slice(0, 4)], attrs)
  record('block_sparse_attention', [q, k, v], [out], [q, k, v, out, lse, ...lists], ([grad], saved) => {
    const g = grad!.dtype === saved[0].dtype ? grad! : run('cast', [grad!], { dtype: saved[0].dtype })[0]
    return run('block_sparse_attention_backward', [g, ...saved], attrs)
  })
  return out
}
