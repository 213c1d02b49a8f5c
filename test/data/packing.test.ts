import fc from 'fast-check'

import { pack, PackedRows, packedStream, type PackedBatch, type PackingCursor } from '../../lib/data/packing'
import { prefetch } from '../../lib/data/prefetch'
import type { TokenArray, Tokenizer } from '../../lib/data/tokenizer'
import { ByteTokenizer } from '../../lib/data/tokenizers/bytes'

/** What is in a packed batch: the tokens and targets of each segment, in order of row. */
function unpack({ inputs, targets, segments, positions, batch, context }: PackedBatch) {
  const out: { ids: number[]; targets: number[] }[] = []
  for (let row = 0; row < batch; row++) {
    let last = -1
    for (let i = row * context; i < (row + 1) * context; i++) {
      if (segments[i] === -1) {
        expect([inputs[i], targets[i], positions[i]]).toEqual([0, -1, 0])
        last = Infinity // nothing may follow the padding
        continue
      }
      if (segments[i] !== last) {
        expect(segments[i]).toBe(last + 1)
        last = segments[i]!
        out.push({ ids: [], targets: [] })
      }
      const piece = out.at(-1)!
      expect(positions[i]).toBe(piece.ids.length)
      piece.ids.push(inputs[i]!)
      piece.targets.push(targets[i]!)
    }
  }
  return out
}

/** Documents of distinct ids, so that each token is recognised. */
const documentsOf = (lengths: number[]): Int32Array[] => {
  let next = 1
  return lengths.map((length) => Int32Array.from({ length }, () => next++))
}

const shapes = fc.integer({ min: 1, max: 12 }).chain((context) =>
  fc.record({
    context: fc.constant(context),
    lengths: fc.array(fc.integer({ min: 0, max: 3 * context }), { maxLength: 25 }),
  }),
)

test('every document is there once, whole, with its own next tokens and an ignored target at its end', () => {
  fc.assert(
    fc.property(shapes, ({ context, lengths }) => {
      const documents = documentsOf(lengths.map((n) => n % (context + 1)))
      const packed = pack(documents, { context })
      const pieces = unpack(packed).sort((a, b) => a.ids[0]! - b.ids[0]!)
      expect(pieces.map((p) => p.ids)).toEqual(documents.filter((d) => d.length > 0).map((d) => [...d]))
      for (const { ids, targets } of pieces) expect(targets).toEqual([...ids.slice(1), -1])
      expect(packed.tokens).toBe(packed.targets.filter((t) => t !== -1).length)
    }),
  )
})

test('a split document loses no target: each piece predicts the first token of the next', () => {
  fc.assert(
    fc.property(shapes, ({ context, lengths }) => {
      const documents = documentsOf(lengths)
      const packed = pack(documents, { context, split: true })
      const next = new Map<number, number>()
      for (const d of documents) d.forEach((id, i) => next.set(id, d[i + 1] ?? -1))
      const seen = unpack(packed)
      for (const { ids, targets } of seen) expect(targets).toEqual(ids.map((id) => next.get(id)!))
      expect(seen.flatMap((p) => p.ids).sort((a, b) => a - b)).toEqual(documents.flatMap((d) => [...d]))
      expect(packed.tokens).toBe(lengths.reduce((sum, n) => sum + Math.max(0, n - 1), 0))
    }),
  )
})

test('rows are few: at most half as many again as a lower bound of the best', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 32 }), { minLength: 1, maxLength: 60 }), (lengths) => {
      const packed = pack(documentsOf(lengths), { context: 32 })
      const full = lengths.filter((n) => n > 16).length // no two of these share a row
      const least = Math.max(full, Math.ceil(lengths.reduce((a, b) => a + b) / 32))
      expect(packed.batch).toBeLessThanOrEqual(1.5 * least + 1)
    }),
  )
})

test('is best fit decreasing, to the row', () => {
  const packed = pack(documentsOf([3, 4, 5, 6, 2]), { context: 8 })
  // 6, 5, 4 open rows; 3 fits best beside 5; 2 fits best beside 6.
  expect(packed.batch).toBe(3)
  expect([...packed.inputs]).toEqual([
    13,
    14,
    15,
    16,
    17,
    18,
    19,
    20, //
    8,
    9,
    10,
    11,
    12,
    1,
    2,
    3, //
    4,
    5,
    6,
    7,
    0,
    0,
    0,
    0,
  ])
  expect([...packed.segments.slice(0, 8)]).toEqual([0, 0, 0, 0, 0, 0, 1, 1])
  expect([...packed.positions.slice(8, 16)]).toEqual([0, 1, 2, 3, 4, 0, 1, 2])
})

test('a document that is too long is named', () => {
  expect(() => pack(documentsOf([2, 9]), { context: 8 })).toThrow(
    'packing: document 1 has 9 tokens, more than the context of 8',
  )
  expect(() => pack([], { context: 0 })).toThrow(expect.objectContaining({ code: 'ERR_ARGUMENT' }))
})

test('packed rows: every epoch has each row once, in another order, and any batch can be read at once', () => {
  const packed = pack(documentsOf(Array.from({ length: 40 }, (_, i) => 1 + ((i * 5) % 8))), { context: 8 })
  const n = packed.batch
  const rows = () => new PackedRows(packed, { batch: 3, seed: 4 })
  const firsts = (from: number) => {
    const source = rows()
    return Array.from({ length: n }, (_, i) => source.batch(from + i)).flatMap(({ inputs }) =>
      [0, 8, 16].map((at) => inputs[at]!),
    )
  }
  const inOrder = Array.from({ length: n }, (_, row) => packed.inputs[row * 8]!).sort((a, b) => a - b)
  const epochs = [0, 1, 2].map((epoch) => firsts(0).slice(epoch * n, (epoch + 1) * n))
  for (const epoch of epochs) expect([...epoch].sort((a, b) => a - b)).toEqual(inOrder)
  expect(epochs[0]).not.toEqual(epochs[1])
  expect(firsts(5).slice(0, 3)).toEqual(firsts(0).slice(15, 18))
  let tokens = 0
  for (let i = 0; i < n; i++) {
    const batch = rows().batch(i)
    unpack(batch)
    tokens += batch.tokens
  }
  expect(tokens).toBe(3 * packed.tokens)
  expect(() => new PackedRows(pack([], { context: 8 }), { batch: 1, seed: 0 })).toThrow(/no rows/)
  expect(() => rows().batch(-1)).toThrow(expect.objectContaining({ code: 'ERR_ARGUMENT' }))
})

/** Bytes with an end token. */
class WithEnd extends ByteTokenizer implements Tokenizer {
  override readonly vocabSize = 256
  readonly eosId = 0
  override encode(text: string): TokenArray {
    return super.encode(text)
  }
}

async function collect<T>(source: AsyncIterable<T>): Promise<T[]> {
  const out: T[] = []
  for await (const item of source) out.push(item)
  return out
}

const texts = (n: number) =>
  Array.from({ length: n }, (_, i) => String.fromCharCode(97 + (i % 26)).repeat(1 + ((i * 7) % 11)))

test('a stream packs lazily, in groups, and every document ends with the end token', async () => {
  let read = 0
  async function* source() {
    for (const text of texts(100)) {
      read++
      yield text
    }
  }
  const options = { context: 16, batch: 2, group: 10, tokenizer: new WithEnd() }
  const stream = packedStream(source(), options)
  const first = (await stream.next()).value as PackedBatch
  expect(read).toBe(10)
  const rest = await collect(stream)
  expect(read).toBe(100)
  const documents = [first, ...rest].flatMap((b) => unpack(b).map((p) => p.ids))
  expect(documents.map((d) => Buffer.from(d).toString()).sort()).toEqual(
    texts(100)
      .map((t) => `${t}\0`)
      .sort(),
  )
  for (const batch of rest.slice(0, -1)) expect(batch.batch).toBe(2)
})

test('goes on from the cursor of any batch', async () => {
  for (const [group, batch] of [
    [10, 3],
    [7, 1],
    [4, 5],
    [1000, 4],
  ] as const) {
    const options = { context: 16, batch, group, tokenizer: new ByteTokenizer() }
    const all = await collect(packedStream(texts(53), options))
    for (let i = 0; i < all.length; i++) {
      const cursor = JSON.parse(JSON.stringify(all[i]!.cursor)) as PackingCursor
      expect(await collect(packedStream(texts(53), { ...options, cursor }))).toEqual(all.slice(i + 1))
    }
  }
})

test('a cursor of other options, and an end token that is not there, are refused', async () => {
  const options = { context: 16, batch: 1, group: 10, tokenizer: new ByteTokenizer() }
  const cursor = { document: 0, row: 1, group: 20, context: 16 }
  const code = 'ERR_OPTION'
  await expect(collect(packedStream(texts(5), { ...options, cursor }))).rejects.toMatchObject({ code })
  await expect(collect(packedStream(texts(5), { ...options, end: true }))).rejects.toMatchObject({ code })
  await expect(collect(packedStream(['x'.repeat(17)], options))).rejects.toMatchObject({ code: 'ERR_DATA' })
})

test('prefetch keeps the order, reads at most its depth ahead, passes errors on and stops its source', async () => {
  let produced = 0
  let stopped = false
  async function* source() {
    try {
      for (; produced < 50;) yield produced++
    } finally {
      stopped = true
    }
  }
  const seen: number[] = []
  for await (const item of prefetch(source(), 3)) {
    await new Promise((resolve) => setImmediate(resolve))
    expect(produced - item).toBeLessThanOrEqual(5)
    seen.push(item)
    if (item === 20) break
  }
  expect(seen).toEqual(Array.from({ length: 21 }, (_, i) => i))
  await new Promise((resolve) => setImmediate(resolve))
  expect(stopped).toBe(true)

  expect(await collect(prefetch([1, 2, 3], 1))).toEqual([1, 2, 3])
  async function* failing() {
    yield 1
    throw new Error('broken source')
  }
  const stream = prefetch(failing(), 2)
  expect((await stream.next()).value).toBe(1)
  await expect(stream.next()).rejects.toThrow('broken source')
})
