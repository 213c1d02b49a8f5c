// Attention over listed pairs against dense attention with the same pairs hidden, for every pattern.
import { bigbird, causal, custom, fixed, full, local, localCausal, longformer, strided } from '../../lib/attention/patterns'
import { backward } from '../../lib/autograd/backward'
import { type Pattern } from '../../lib/ops/block_sparse_attention'
import { csrAttention, csrFromLists, csrFromMask, csrLayout, CsrLayout } from '../../lib/ops/csr_attention'
import { zeros } from '../../lib/ops/creation'
import { mul } from '../../lib/ops/elementwise'
import { matmul } from '../../lib/ops/matmul'
import { permute } from '../../lib/ops/permute'
import { randn } from '../../lib/ops/random'
import { sum } from '../../lib/ops/reductions'
import { softmax } from '../../lib/ops/softmax'
import { where } from '../../lib/ops/where'
import { Generator } from '../../lib/tensor/random'
import { getDevice } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { run as runOperator, setRequiresGrad, tensor, type Tensor } from '../../lib/tensor/tensor'
import { attentionOver } from '../support/attention_over'
import { testDevices } from '../support/devices'
import { jestOnly, opCase } from '../support/op_case'

// Globals are slow to reach from within jest.
const { floor } = Math

interface Attributes {
  layout: (queries: number, keys: number) => CsrLayout
  kvHeads?: number
  scale?: number
  causal?: boolean
  /** Tokens of a segment; 0: none. */
  segment?: number
  /** Every so many-th key is padding; 0: none. */
  padding?: number
}

const of = (pattern: Pattern, block = 16) => (queries: number, keys: number) => csrLayout(pattern, { queries, keys }, block)
const visible = new WeakMap<Attributes, CsrLayout>()

/** Keys that a query of a head sees: of the listed ones, those that no mask hides. */
function keysSeen(attrs: Attributes, queries: number, keys: number): (head: number, query: number) => number[] {
  const layout = visible.get(attrs) ?? attrs.layout(queries, keys)
  visible.set(attrs, layout)
  const { segment = 0, padding = 0 } = attrs
  return (h, i) => {
    const row = (layout.patterns === 1 ? 0 : h) * queries + i
    return [...layout.columns.subarray(layout.rowStarts[row], layout.rowStarts[row + 1])].filter(
      (j) =>
        !(attrs.causal && j > i + keys - queries) &&
        !(segment && floor(i / segment) !== floor(j / segment)) &&
        !(padding && j % padding === padding - 1),
    )
  }
}

const keep = new WeakMap<Attributes, CsrLayout>()
const masksOf = (q: Tensor, keys: number, { segment, padding }: Attributes) => {
  const batch = q.shape[0]
  const grid = (f: (j: number) => number) => Int32Array.from({ length: batch * keys }, (_, at) => f(at % keys))
  const on = { device: q.device }
  return {
    segments: segment ? tensor(grid((j) => floor(j / segment)), [batch, keys], { ...on, dtype: 'i32' }) : null,
    keyMask: padding ? tensor(Uint8Array.from(grid((j) => (j % padding === padding - 1 ? 0 : 1))), [batch, keys], { ...on, dtype: 'bool' }) : null,
  }
}
/** The library itself does not multiply by all of these blocks. */
const simulated = Boolean(process.env.GPUSIM_HOME)
const run = ([q, k, v]: Tensor[], attrs: Attributes) => {
  const { kvHeads, scale, causal } = attrs
  let layout = keep.get(attrs)
  if (!layout) {
    keep.set(attrs, (layout = attrs.layout(q.shape[1], k.shape[1])))
    layout.byBlocks = simulated
  }
  return csrAttention(q, k, v, layout, { heads: q.shape[2], kvHeads, scale, causal, ...masksOf(q, k.shape[1], attrs) })
}

const inputs = (queries: number, keys = queries, heads = 1, kvHeads = heads, width = 4, batch = 1) =>
  [[batch, queries, heads, width], [batch, keys, kvHeads, width], [batch, keys, kvHeads, width]]
/** Blocks of 16 for 4 heads. */
const blockPattern = custom([0, 1, 2, 3].map((h) => [0, 1, 2].map((i) => [0, 1, 2].map((j) => (i * 2 + j + h) % 4 === 0))), 16)
const qkv = (sizes: ReturnType<typeof inputs>, attrs: Attributes) => ({ inputs: sizes, attrs })
/** Rows of 0 to many keys at odd places. */
const ragged = (queries: number, keys: number) =>
  csrFromLists(Array.from({ length: queries }, (_, i) => Array.from({ length: keys }, (_, j) => j).filter((j) => (i * 7 + j * 5) % 11 < i % 4)), keys)

opCase<Attributes>({
  name: 'csrAttention',
  ops: ['csr_attention', 'csr_attention_backward'],
  run,
  reference: (given, attrs, r) => attentionOver(given, keysSeen(attrs, given[0].shape[1], given[1].shape[1]), attrs.scale, r),
  errorScale: 'tensor',
  samples: [
    qkv(inputs(5, 5, 2, 2, 4, 2), { layout: of(full()) }),
    qkv(inputs(18, 18, 2, 1, 3), { layout: of(localCausal(10)), kvHeads: 1 }),
    qkv(inputs(20), { layout: of(local(6)), scale: 0.3, causal: true }),
    qkv(inputs(20, 20, 2), { layout: of(strided(7, 2)) }),
    qkv(inputs(19, 19, 2), { layout: of(fixed(8, 2, 2)) }),
    qkv(inputs(20, 20, 2), { layout: of(longformer(4, [1, 3], [0, 18])) }),
    qkv(inputs(34), { layout: of(causal(bigbird({ block: 4, random: 1 })), 4) }),
    // Queries without any key, keys that nobody sees, and no pair at all.
    qkv(inputs(21, 13, 4, 2, 8, 3), { layout: ragged, kvHeads: 2 }),
    qkv(inputs(6), { layout: (queries, keys) => csrFromMask(new Uint8Array(queries * keys), { queries, keys }) }),
    // Rows that a warp cannot hold; fewer queries than keys; packed samples; padding.
    qkv(inputs(2, 1300), { layout: of(full(), 64), padding: 3 }),
    qkv(inputs(3, 20), { layout: of(localCausal(10)) }),
    qkv(inputs(18, 18, 2, 2, 4, 2), { layout: of(full()), causal: true, segment: 5, padding: 4 }),
    // Whole blocks: of 16, 32 and 64, of different heads, with rows of them that are empty, fewer queries, masks, and rows that a
    // warp cannot hold; blocks of which the causal rule leaves a part.
    qkv(inputs(48, 48, 4, 2, 3, 2), { layout: of(blockPattern), kvHeads: 2 }),
    qkv(inputs(32, 96, 2), { layout: of(full(), 32), padding: 5 }),
    qkv(inputs(64), { layout: of(full(), 64), causal: true, segment: 50 }),
    qkv(inputs(16, 1040), { layout: of(full(), 16), scale: 0.4 }),
    qkv(inputs(48, 64), { layout: of(causal(full())) }),
    qkv(inputs(0), { layout: of(full()) }),
    qkv(inputs(4, 0), { layout: of(full()) }),
    qkv(inputs(3, 3, 1, 1, 0), { layout: of(full()) }),
  ],
  gradTolerance: { bf16: 0.06, f16: 0.02 },
  bench: [
    // The long rows of a simulated GPU take minutes.
    process.env.GPUSIM_HOME
      ? { inputs: inputs(160, 160, 2, 2, 16), attrs: { layout: of(localCausal(64)) }, label: '160 x 2 x 16, window 64' }
      : { inputs: inputs(1024, 1024, 4, 4, 64), attrs: { layout: of(localCausal(256)) }, label: '1024 x 4 x 64, window 256' },
  ],
  errors: [
    { what: 'a layout for other sizes', call: () => csrAttention(zeros([1, 4, 1, 4]), zeros([1, 5, 1, 4]), zeros([1, 5, 1, 4]), csrLayout(full(), { queries: 4, keys: 4 }), { heads: 1 }), code: 'ERR_SHAPE', text: ['4 queries and 4 keys, not for 4 and 5'] },
    { what: 'other values than keys', call: () => run([zeros([1, 4, 1, 4]), zeros([1, 5, 1, 4]), zeros([1, 5, 1, 3])], { layout: of(full()) }), code: 'ERR_SHAPE', text: ['k', 'v'] },
    { what: 'patterns for other heads', call: () => run([0, 1, 2].map(() => zeros([1, 4, 3, 4])), { layout: of(strided(2, 2)) }), code: 'ERR_SHAPE', text: ['2 patterns for 3 heads'] },
    { what: 'a key that there is not', call: () => csrFromLists([[0, 1], [7]], 7), code: 'ERR_ARGUMENT', text: ['query 1 lists the key 7'] },
    { what: 'keys out of order', call: () => csrFromLists([[0, 1], [3, 2]], 7), code: 'ERR_ARGUMENT', text: ['the key 2 after 3'] },
    { what: 'a key listed twice', call: () => csrFromLists([[1, 1]], 7), code: 'ERR_ARGUMENT', text: ['the key 1 after 1'] },
    { what: 'half a key', call: () => csrFromLists([[0.5]], 7), code: 'ERR_ARGUMENT', text: ['0.5'] },
    { what: 'heads that list other queries', call: () => csrFromLists([[[0], [1]], [[0]]], 7), code: 'ERR_ARGUMENT', text: ['2 and 1 queries'] },
    { what: 'a mask of another size', call: () => csrFromMask([1, 0, 1], { queries: 2, keys: 2 }), code: 'ERR_ARGUMENT', text: ['[1, 2, 2]'] },
    { what: 'row starts that fall', call: () => new CsrLayout({ queries: 2, keys: 4 }, Int32Array.of(0, 2, 1), Int32Array.of(0), 1), code: 'ERR_ARGUMENT', text: ['starts at 2'] },
    { what: 'too few row starts', call: () => new CsrLayout({ queries: 2, keys: 4 }, Int32Array.of(0, 1), Int32Array.of(0), 1), code: 'ERR_ARGUMENT', text: ['2 row starts'] },
    { what: 'a block that is none', call: () => csrLayout(full(), { queries: 2, keys: 4 }, 0), code: 'ERR_ARGUMENT', text: ['block is 0'] },
    { what: 'segments of another shape', call: () => csrAttention(zeros([1, 4, 1, 4]), zeros([1, 4, 1, 4]), zeros([1, 4, 1, 4]), csrLayout(full(), { queries: 4, keys: 4 }), { heads: 1, segments: zeros([1, 3], { dtype: 'i32' }) }), code: 'ERR_SHAPE', text: ['segments'] },
  ],
})

jestOnly(() => {
  const n = 96
  const patterns: [string, Pattern][] = [
    ['local', local(24)],
    ['local causal', localCausal(17)],
    ['strided', strided(8, 2)],
    ['fixed', fixed(16, 2)],
    ['bigbird', bigbird({ block: 16, random: 1, seed: 5 })],
    ['dilated longformer', longformer(8, [1, 3], [0, 40])],
    ['blocks, some rows empty', custom([[0, 1, 2, 3, 4, 5].map((i) => [0, 1, 2, 3, 4, 5].map((j) => i % 2 === 0 && (i + j) % 3 === 0))], 16)],
  ]

  describe.each(testDevices().map((device) => [device.name, device] as const))('%s', (_, device) => {
    test('a step that repeats itself, and more heads than are stacked: the same bits', async () => {
      const n = 40
      const results: Float64Array[][] = []
      const generator = new Generator(3)
      const leaves = scope(() => [4, 2, 2].map((heads) => setRequiresGrad(randn([2, n, heads, 16], { generator, device }))))
      const before = (await device.synchronize()).graphReplays
      for (const mostStacked of [1 << 22, 1]) {
        const layout = csrLayout(localCausal(9), { queries: n, keys: n })
        layout.mostStacked = mostStacked
        for (let step = 0; step < 4; ++step) {
          const out = scope(() =>
            device.repeating(() => {
              const result = csrAttention(leaves[0], leaves[1], leaves[2], layout, { heads: 4, kvHeads: 2 })
              backward(result, result)
              return result
            }),
          )
          results.push(await Promise.all([out, ...leaves.map((x) => x.grad!)].map((x) => x.toFloat64())))
          for (const x of [out, ...leaves.map((leaf) => leaf.grad!)]) x.dispose()
          for (const leaf of leaves) leaf.grad = null
        }
        layout.dispose()
      }
      for (const each of results) expect(each).toEqual(results[0])
      if (device.name.startsWith('cuda')) expect((await device.synchronize()).graphReplays - before).toBeGreaterThan(2)
    })

    test.each(patterns)('%s: as dense attention with a mask of the same pairs, forwards and backwards, the same bits twice', async (__, pattern) => {
      const [batch, heads, width] = [2, 2, 32]
      const layout = csrLayout(pattern, { queries: n, keys: n }, 16)
      const once = async (sparse: boolean) => {
        const generator = new Generator(3)
        const leaves = scope(() => [0, 1, 2].map(() => setRequiresGrad(randn([batch, n, heads, width], { generator, device }))))
        const out = scope(() => {
          const result = sparse ? csrAttention(leaves[0], leaves[1], leaves[2], layout, { heads }) : dense(leaves, layout)
          backward(result, randn(result.shape, { generator: new Generator(9), device }))
          return result
        })
        const all = await Promise.all([out, ...leaves.map((x) => x.grad!)].map((x) => x.toFloat64()))
        for (const x of [out, ...leaves]) x.dispose()
        return all
      }
      const [a, again, b] = [await once(true), await once(true), await once(false)]
      expect(again).toEqual(a)
      for (const [i, values] of a.entries()) {
        const largest = b[i].reduce((most, x) => Math.max(most, Math.abs(x)), 0)
        const worst = values.reduce((most, x, at) => Math.max(most, Math.abs(x - b[i][at])), 0)
        expect(worst).toBeLessThan(1e-5 * Math.max(1, largest))
      }
      layout.dispose()
    })
  })

  test('in f64 it is dense attention to 1e-14, forwards and backwards, at a density of 0.22', async () => {
    const [n, heads, width] = [64, 2, 16]
    const lists = Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => j).filter((j) => (i * i + 7 * i + 3 * j) % 9 < 2))
    const layout = csrFromLists(lists, n)
    expect(layout.density).toBeCloseTo(0.22, 2)
    const once = async (run: (leaves: Tensor[]) => Tensor) => {
      const generator = new Generator(3)
      const leaves = [0, 1, 2].map(() => setRequiresGrad(randn([1, n, heads, width], { generator, dtype: 'f64' })))
      const out = scope(() => {
        const result = run(leaves)
        backward(result, randn(result.shape, { generator: new Generator(9), dtype: 'f64' }))
        return result
      })
      return Promise.all([out, ...leaves.map((x) => x.grad!)].map((x) => x.toFloat64()))
    }
    const own = await once(([q, k, v]) => csrAttention(q, k, v, layout, { heads }))
    const wanted = await once((leaves) => dense(leaves, layout))
    for (const [i, values] of own.entries()) expect(values.reduce((most, x, at) => Math.max(most, Math.abs(x - wanted[i][at])), 0)).toBeLessThan(1e-14)
    layout.dispose()
  })

  test('8192 tokens, 1 % of the pairs: less than a twentieth of the bytes of all scores, and bytes grow with the pairs', async () => {
    const device = getDevice('meta')
    const [n, width] = [8192, 64]
    const peak = async (run: (leaves: Tensor[]) => Tensor) => {
      const leaves = [0, 1, 2].map(() => setRequiresGrad(zeros([1, n, 1, width], { device })))
      const before = (await device.synchronize()).liveBytes
      device.resetPeak()
      scope(() => backward(sum(run(leaves))))
      const { peakBytes } = await device.synchronize()
      for (const leaf of leaves) leaf.grad!.dispose()
      for (const leaf of leaves) leaf.dispose()
      return peakBytes - before
    }
    // Each query sees as many keys, evenly spread. Measured: 18.6 MB beside 1346 MB, 12 bytes a pair.
    const sparse = (keys: number) => {
      const columns = Int32Array.from({ length: n * keys }, (_, at) => floor(((at % keys) * n) / keys))
      const layout = new CsrLayout({ queries: n, keys: n }, Int32Array.from({ length: n + 1 }, (_, i) => i * keys), columns, 1)
      return peak(([q, k, v]) => csrAttention(q, k, v, layout, { heads: 1 })).finally(() => layout.dispose())
    }
    const first = (x: Tensor) => permute(x, [0, 2, 1, 3])
    const whole = await peak(([q, k, v]) => matmul(softmax(mul(matmul(first(q), first(k), { transposeB: true }), 0.125)), first(v)))
    const [one, two, three] = [await sparse(82), await sparse(164), await sparse(246)]
    expect(one).toBeLessThan(whole / 20)
    expect((three - two) / (two - one)).toBeCloseTo(1, 2)
  })

  test('a pattern lists the pairs that it sees, and the same ones again for a seed', () => {
    for (const [, pattern] of patterns) {
      const layout = csrLayout(pattern, { queries: n, keys: n }, 16)
      for (let h = 0; h < pattern.heads; ++h) {
        for (let i = 0; i < n; ++i) {
          for (let j = 0; j < n; ++j) {
            if (layout.sees(i, j, h) !== pattern.sees(i, j, h, { queries: n, keys: n, block: 16 })) throw new Error(`head ${h}, query ${i}, key ${j}`)
          }
        }
      }
    }
    const drawn = (seed: number) => csrLayout(bigbird({ block: 16, random: 2, seed }), { queries: 160, keys: 160 }, 16).columns
    expect(drawn(4)).toEqual(drawn(4))
    expect(drawn(4)).not.toEqual(drawn(5))
  })

  test('pairs that make up whole blocks are found as such', () => {
    const blocksOf = (pattern: Pattern, queries = n, keys = n) => csrLayout(pattern, { queries, keys }, 16).blocks
    expect(blocksOf(local(24))).toBeNull()
    expect(blocksOf(full(), 90)).toBeNull()
    expect(blocksOf(full(), 64, 128)).toMatchObject({ block: 64, causal: false, columns: Int32Array.of(0, 1) })
    expect(blocksOf(causal(full()), 64, 96)).toMatchObject({ block: 32, causal: true, columns: Int32Array.of(0, 1, 0, 1, 2) })
    const bigBlocks = blocksOf(bigbird({ block: 16, random: 1, seed: 5 }))!
    expect(bigBlocks).toMatchObject({ block: 16, causal: false })
    expect(bigBlocks.columns.length * 256).toBe(csrLayout(bigbird({ block: 16, random: 1, seed: 5 }), { queries: n, keys: n }, 16).columns.length)
    const holes = blocksOf(blockPattern, 48, 48)!
    expect(holes.rowStarts.length).toBe(13)
    // One pair less, and they are none.
    const lists = Array.from({ length: 32 }, (_, i) => Array.from({ length: 32 }, (__, j) => j).filter((j) => i !== 20 || j !== 3))
    expect(csrFromLists(lists, 32).blocks).toBeNull()
  })

  test('a CPU does not take lists of blocks', async () => {
    const cpu = getDevice('cpu')
    const [q, k, v] = [0, 1, 2].map(() => zeros([1, 16, 1, 4], { device: cpu }))
    const list = (...values: number[]) => tensor(Int32Array.from(values), [values.length], { dtype: 'i32', device: cpu })
    const attrs = { heads: 1, kv_heads: 1, causal: false, scale: 0, entries: [256], layout: 1, block: 16 }
    scope(() => runOperator('csr_attention', [q, k, v, list(0, 1), list(0), null, null], attrs))
    await expect(cpu.synchronize()).rejects.toThrow('a CPU takes lists of pairs, not of blocks of 16')
    cpu.clearError()
  })

  test('lists, masks and patterns give the same layout', () => {
    const layout = csrLayout(localCausal(3), { queries: 5, keys: 5 })
    const lists = Array.from({ length: 5 }, (_, i) => [i - 2, i - 1, i].filter((j) => j >= 0))
    const mask = Array.from({ length: 25 }, (_, at) => lists[floor(at / 5)].includes(at % 5))
    for (const other of [csrFromLists(lists, 5), csrFromMask(mask, { queries: 5, keys: 5 })]) {
      expect([other.rowStarts, other.columns]).toEqual([layout.rowStarts, layout.columns])
    }
    expect(layout.density).toBeCloseTo(12 / 25, 12)
  })

  test('FLOPs are those of the pairs', async () => {
    const device = getDevice('meta')
    const layout = csrLayout(localCausal(3), { queries: 50, keys: 50 })
    const before = (await device.synchronize()).flops
    scope(() => csrAttention(zeros([2, 50, 4, 8], { device }), zeros([2, 50, 4, 8], { device }), zeros([2, 50, 4, 8], { device }), layout, { heads: 4 }))
    expect((await device.synchronize()).flops - before - 0).toBe(4 * 8 * 2 * 4 * layout.columns.length)
  })
})

/** Dense attention over the pairs of a layout: all scores, what is not listed hidden before the softmax and after it. */
function dense([q, k, v]: Tensor[], layout: CsrLayout): Tensor {
  const [, queries, heads, width] = q.shape
  const keys = k.shape[1]
  const listed = new Uint8Array(heads * queries * keys)
  for (let row = 0; row < heads * queries; ++row) {
    const from = layout.patterns === 1 ? row % queries : row
    for (let e = layout.rowStarts[from]; e < layout.rowStarts[from + 1]; ++e) listed[row * keys + layout.columns[e]] = 1
  }
  const mask = tensor(listed, [1, heads, queries, keys], { device: q.device, dtype: 'bool' })
  const first = (x: Tensor) => permute(x, [0, 2, 1, 3])
  const scores = mul(matmul(first(q), first(k), { transposeB: true }), 1 / Math.sqrt(width))
  return permute(matmul(where(mask, softmax(where(mask, scores, -1e30)), 0), first(v)), [0, 2, 1, 3])
}
