// Packs documents of any length into rows of `context` tokens, several to a row, so that none sees another: `segments`
// numbers the documents of a row from 0 (-1 is padding), `positions` starts again at 0 in each, and the target at the
// end of a document is ignored (-1), as is padding.
// Rule: best fit decreasing. Longest document first, earlier one first among equals; into the row with the least room
// that is enough, the earliest such row among equals; else into a new row. For many documents
// at most 11/9 of the optimal number of rows (Johnson et al. 1974).
// An endless stream is packed in groups of documents; the place in it is (documents before the group, row in it).

import { LeanformerError } from '../native/errors'
import { Permutation } from './permutation'
import { kIgnored, type TokenBatch } from './tokens'
import type { Tokenizer } from './tokenizer'

export interface PackedBatch extends TokenBatch {
  /** [batch, context]: number of the document within the row, -1 for padding. */
  segments: Int32Array
  /** [batch, context]: place within the document, 0 for padding. */
  positions: Int32Array
}

export interface PackOptions {
  context: number
  /** Cut a document longer than `context` into pieces, packed one by one. Default false: such a document throws. */
  split?: boolean
}

/** Part of a document: inputs [start, start + length), targets one later. */
interface Piece {
  document: number
  start: number
  length: number
}

function assertPositive(name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new LeanformerError('ERR_ARGUMENT', `packing: ${name} is ${value}`, 'give a positive integer')
  }
}

/** All rows of a finite list of documents. */
export function pack(documents: readonly ArrayLike<number>[], options: PackOptions): PackedBatch {
  const { context } = options
  assertPositive('context', context)
  return fill(documents, bestFitDecreasing(pieces(documents, options), context), context)
}

/** `first` is the number of documents[0] in the stream, for the error. */
function pieces(documents: readonly ArrayLike<number>[], { context, split }: PackOptions, first = 0): Piece[] {
  const out: Piece[] = []
  documents.forEach(({ length }, document) => {
    if (length > context && !split) {
      throw new LeanformerError(
        'ERR_DATA',
        `packing: document ${first + document} has ${length} tokens, more than the context of ${context}`,
        'set split: true to cut it into pieces, or give a longer context',
      )
    }
    for (let start = 0; start < length; start += context) {
      out.push({ document, start, length: Math.min(context, length - start) })
    }
  })
  return out
}

function bestFitDecreasing(list: Piece[], context: number): Piece[][] {
  const rows: Piece[][] = []
  // Rows by the room they have left; each list is in order of row number, read from its front.
  const byRoom: number[][] = Array.from({ length: context + 1 }, () => [])
  const insert = (room: number, row: number): void => {
    const queue = byRoom[room]!
    let at = queue.length
    while (at > 0 && queue[at - 1]! > row) at--
    queue.splice(at, 0, row)
  }
  const sorted = [...list].sort((a, b) => b.length - a.length || a.document - b.document || a.start - b.start)
  for (const piece of sorted) {
    let room = piece.length
    while (room <= context && byRoom[room]!.length === 0) room++
    if (room > context) {
      rows.push([piece])
      insert(context - piece.length, rows.length - 1)
    } else {
      const row = byRoom[room]!.shift()!
      rows[row]!.push(piece)
      insert(room - piece.length, row)
    }
  }
  return rows
}

function fill(documents: readonly ArrayLike<number>[], rows: Piece[][], context: number): PackedBatch {
  const size = rows.length * context
  const inputs = new Int32Array(size)
  const targets = new Int32Array(size).fill(kIgnored)
  const segments = new Int32Array(size).fill(-1)
  const positions = new Int32Array(size)
  let tokens = 0
  rows.forEach((row, r) => {
    let at = r * context
    row.forEach(({ document, start, length }, segment) => {
      const ids = documents[document]!
      for (let i = 0; i < length; i++, at++) {
        inputs[at] = ids[start + i]!
        segments[at] = segment
        positions[at] = i
        // The end of a piece that is not the end of its document has a target: the first token of the next piece.
        if (start + i + 1 < ids.length) {
          targets[at] = ids[start + i + 1]!
          tokens++
        }
      }
    })
  })
  return { inputs, targets, segments, positions, batch: rows.length, context, tokens }
}

/** Puts rows one under the other. */
function stack(rows: readonly PackedBatch[], context: number): PackedBatch {
  const join = (field: 'inputs' | 'targets' | 'segments' | 'positions'): Int32Array => {
    const out = new Int32Array(rows.length * context)
    rows.forEach((row, r) => out.set(row[field], r * context))
    return out
  }
  return {
    inputs: join('inputs'),
    targets: join('targets'),
    segments: join('segments'),
    positions: join('positions'),
    batch: rows.length,
    context,
    tokens: rows.reduce((sum, row) => sum + row.tokens, 0),
  }
}

/** Packed rows as training data: each epoch gives every row once, shuffled, and any batch is read in O(1). */
export class PackedRows {
  private order: { epoch: number; permutation: Permutation } | undefined

  constructor(
    private readonly packed: PackedBatch,
    private readonly options: { batch: number; seed: number },
  ) {
    assertPositive('batch', options.batch)
    if (packed.batch === 0) {
      throw new LeanformerError(
        'ERR_DATA',
        'packing: there are no rows',
        'give at least one document that is not empty',
      )
    }
  }

  /** The micro-batch of that index, counted from the start of the run over all epochs. */
  batch(index: number): PackedBatch {
    const { batch } = this.options
    const rows = Array.from({ length: batch }, (_, i) => rowOf(this.packed, this.rowNumber(index * batch + i)))
    return stack(rows, this.packed.context)
  }

  private rowNumber(sample: number): number {
    const count = this.packed.batch
    const epoch = Math.floor(sample / count)
    if (this.order?.epoch !== epoch) {
      this.order = { epoch, permutation: new Permutation(count, this.options.seed, epoch) }
    }
    return this.order.permutation.at(sample - epoch * count)
  }
}

function rowOf({ inputs, targets, segments, positions, context }: PackedBatch, row: number): PackedBatch {
  const part = (values: Int32Array): Int32Array => values.subarray(row * context, (row + 1) * context)
  const own = part(targets)
  const tokens = own.reduce((count, target) => count + Number(target !== kIgnored), 0)
  return {
    inputs: part(inputs),
    targets: own,
    segments: part(segments),
    positions: part(positions),
    batch: 1,
    context,
    tokens,
  }
}

/** Place in a stream: all groups before `document` are done, and `row` rows of the group that starts there. */
export interface PackingCursor {
  document: number
  row: number
  /** The options that decide what row `row` is. */
  group: number
  context: number
}

export interface PackedStreamOptions extends PackOptions {
  /** Rows per batch; the last batch of the stream may have fewer. */
  batch: number
  tokenizer: Tokenizer
  /** Documents that are packed together, and so the most that are held. Default 1024. */
  group?: number
  /** Add the tokenizer's end token to every document. Default: when it has one. */
  end?: boolean
  /** Where to go on, from `cursor` of an earlier stream over the same documents. */
  cursor?: PackingCursor
}

export type PackedStreamBatch = PackedBatch & { cursor: PackingCursor }

/** Encodes and packs documents lazily. Each batch comes with the cursor from which the stream goes on after it. */
export async function* packedStream(
  documents: Iterable<string> | AsyncIterable<string>,
  options: PackedStreamOptions,
): AsyncGenerator<PackedStreamBatch> {
  const { tokenizer, context, batch: batchSize, group: groupSize = 1024 } = options
  for (const [name, value] of Object.entries({ context, batch: batchSize, group: groupSize }))
    assertPositive(name, value)
  const eosId = tokenizer.eosId
  const end = options.end ?? eosId !== undefined
  if (end && eosId === undefined) {
    throw new LeanformerError('ERR_OPTION', `packing: tokenizer ${tokenizer.name} has no end token`, 'set end: false')
  }
  const encode = (text: string): Int32Array => {
    const ids = tokenizer.encode(text)
    const out = new Int32Array(ids.length + (end ? 1 : 0))
    out.set(ids)
    if (end) out[ids.length] = eosId!
    return out
  }

  const cursor: PackingCursor = { document: 0, row: 0, ...options.cursor, group: groupSize, context }
  const given = options.cursor ?? cursor
  if (given.row > 0 && (given.group !== groupSize || given.context !== context)) {
    throw new LeanformerError(
      'ERR_OPTION',
      `packing: the cursor is of group ${given.group}, context ${given.context}; the stream: ${groupSize}, ${context}`,
      'go on with the same group and context',
    )
  }
  let rows: PackedBatch[] = []
  const batchOf = (): PackedStreamBatch => {
    const out = { ...stack(rows, context), cursor: { ...cursor } }
    rows = []
    return out
  }
  for await (const group of groups(documents, cursor.document, groupSize)) {
    const encoded = group.map(encode)
    const packed = bestFitDecreasing(pieces(encoded, options, cursor.document), context)
    const first = cursor.row // rows of a resumed group that were given out before
    for (let r = first; r < packed.length; r++) {
      rows.push(fill(encoded, [packed[r]!], context))
      cursor.row = r + 1
      if (r + 1 === packed.length) Object.assign(cursor, { document: cursor.document + group.length, row: 0 })
      if (rows.length === batchSize) yield batchOf()
    }
    if (first >= packed.length) Object.assign(cursor, { document: cursor.document + group.length, row: 0 })
  }
  if (rows.length > 0) yield batchOf()
}

/** Documents from number `skip` on, in groups of `size`. */
async function* groups(
  documents: Iterable<string> | AsyncIterable<string>,
  skip: number,
  size: number,
): AsyncGenerator<string[]> {
  let group: string[] = []
  let number = 0
  for await (const document of documents) {
    if (number++ < skip) continue
    group.push(document)
    if (group.length === size) {
      yield group
      group = []
    }
  }
  if (group.length > 0) yield group
}
