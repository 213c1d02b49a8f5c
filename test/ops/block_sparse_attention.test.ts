// Attention over listed blocks against dense attention with the same elements hidden, for every pattern.
import { bigbird, causal, custom, fixed, full, local, localCausal, longformer, strided } from '../../lib/attention/patterns'
import { backward } from '../../lib/autograd/backward'
import { attention } from '../../lib/ops/attention'
import { blockLayout, blockSparseAttention, type Pattern } from '../../lib/ops/block_sparse_attention'
import { zeros } from '../../lib/ops/creation'
import { randn } from '../../lib/ops/random'
import { getDevice } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { Generator } from '../../lib/tensor/random'
import { setRequiresGrad } from '../../lib/tensor/tensor'
import { attentionOver } from '../support/attention_over'
import { jestOnly, opCase } from '../support/op_case'

interface Attributes {
  pattern: Pattern
  block: number
  kvHeads?: number
  scale?: number
}

const visible = new WeakMap<Attributes, Uint8Array>()

/** [heads, queries, keys]: 1 where a query sees a key. */
function visibility(attrs: Attributes, heads: number, queries: number, keys: number): Uint8Array {
  let seen = visible.get(attrs)
  if (!seen) {
    const { pattern, block } = attrs
    seen = Uint8Array.from({ length: heads * queries * keys }, (_, at) => {
      const [h, i, j] = [Math.floor(at / keys / queries), Math.floor(at / keys) % queries, at % keys]
      return pattern.sees(keys - queries + i, j, pattern.heads === 1 ? 0 : h, { queries, keys, block }) ? 1 : 0
    })
    visible.set(attrs, seen)
  }
  return seen
}

/** Keys that a query of a head sees. */
function keysSeen(attrs: Attributes, heads: number, queries: number, keys: number): (head: number, query: number) => number[] {
  const seen = visibility(attrs, heads, queries, keys)
  return (h, i) => Array.from({ length: keys }, (_, j) => j).filter((j) => seen[(h * queries + i) * keys + j])
}

const run = ([q, k, v]: Parameters<typeof blockSparseAttention>[0][], { pattern, block, kvHeads, scale }: Attributes) => {
  const layout = blockLayout(pattern, { queries: q.shape[1], keys: k.shape[1], block })
  const out = blockSparseAttention(q, k, v, layout, { heads: q.shape[2], kvHeads, scale })
  return out
}

const inputs = (queries: number, keys = queries, heads = 1, kvHeads = heads, width = 4, batch = 1) =>
  [[batch, queries, heads, width], [batch, keys, kvHeads, width], [batch, keys, kvHeads, width]]

const qkv = (sizes: ReturnType<typeof inputs>, attrs: Attributes) => ({ inputs: sizes, attrs })
const checker = Array.from({ length: 3 }, (_, i) => Array.from({ length: 3 }, (_, j) => (i + j) % 2 === 0))

opCase<Attributes>({
  name: 'blockSparseAttention',
  ops: ['block_sparse_attention', 'block_sparse_attention_backward'],
  run,
  reference: (given, attrs, r) => attentionOver(given, keysSeen(attrs, given[0].shape[2], given[0].shape[1], given[1].shape[1]), attrs.scale, r),
  errorScale: 'tensor',
  samples: [
    qkv(inputs(5, 5, 2, 2, 4, 2), { pattern: full(), block: 16 }),
    qkv(inputs(18, 18, 2, 1, 3), { pattern: localCausal(10), block: 16, kvHeads: 1 }),
    qkv(inputs(20), { pattern: local(6), block: 16, scale: 0.3 }),
    qkv(inputs(20, 20, 2), { pattern: strided(7, 2), block: 16 }),
    qkv(inputs(19, 19, 2), { pattern: fixed(8, 2, 2), block: 16 }),
    qkv(inputs(20, 20, 2), { pattern: longformer(4, [1, 3], [0, 18]), block: 16 }),
    qkv(inputs(66), { pattern: causal(bigbird({ block: 16, random: 1 })), block: 16 }),
    // Rows of blocks without any key, and fewer queries than keys.
    qkv(inputs(48), { pattern: custom([[[false, false, false], [true, false, true], [false, false, false]]], 16), block: 16 }),
    qkv(inputs(3, 20), { pattern: localCausal(10), block: 16 }),
    qkv(inputs(0), { pattern: full(), block: 16 }),
  ],
  gradTolerance: { bf16: 0.06, f16: 0.02 },
  bench: [
    { inputs: inputs(4096, 4096, 4, 4, 64), attrs: { pattern: localCausal(512), block: 64 }, label: '4096 x 4 x 64, window 512' },
  ],
  errors: [
    { what: 'a block size that there is not', call: () => blockLayout(full(), { queries: 4, keys: 4, block: 24 }), code: 'ERR_ARGUMENT', text: ['24'] },
    { what: 'a layout for other sizes', call: () => run([zeros([1, 4, 1, 4]), zeros([1, 5, 1, 4]), zeros([1, 5, 1, 3])], { pattern: full(), block: 16 }), code: 'ERR_SHAPE', text: ['k', 'v'] },
    { what: 'a bad dilation', call: () => longformer(4, [0]), code: 'ERR_ARGUMENT', text: ['dilation'] },
  ],
})

jestOnly(() => {
  test('a layout of other sizes is refused, with both sizes', () => {
    const layout = blockLayout(full(), { queries: 4, keys: 4, block: 16 })
    expect(() => blockSparseAttention(zeros([1, 5, 1, 4]), zeros([1, 5, 1, 4]), zeros([1, 5, 1, 4]), layout, { heads: 1 })).toThrow('4 queries and 4 keys, not for 5 and 5')
    layout.dispose()
  })

  test('the window of attention() and the one of a layout give the same, at several blocks and with gradients', async () => {
    const results: Float64Array[][] = []
    for (const dense of [true, false]) {
      const generator = new Generator(3)
      const leaves = scope(() => [0, 1, 2].map(() => setRequiresGrad(randn([2, 150, 4, 32], { generator }))))
      const [q, k, v] = leaves
      scope(() => {
        const layout = blockLayout(localCausal(70), { queries: 150, keys: 150, block: 64 })
        const out = dense
          ? attention(q, k, v, { heads: 4, causal: true, window: 70 })
          : blockSparseAttention(q, k, v, layout, { heads: 4 })
        backward(out, randn(out.shape, { generator: new Generator(9) }))
        layout.dispose()
      })
      results.push(await Promise.all(leaves.map((x) => x.grad!.toFloat64())))
    }
    for (const [i, grads] of results[0].entries()) {
      const worst = grads.reduce((most, x, at) => Math.max(most, Math.abs(x - results[1][i][at])), 0)
      expect(worst).toBeLessThan(1e-4)
    }
  })

  test('FLOPs are the density times those of dense attention, plus at most a row of blocks', async () => {
    const device = getDevice('meta')
    const flops = async (f: () => void) => {
      const before = (await device.synchronize()).flops
      scope(f)
      return (await device.synchronize()).flops - before
    }
    const [n, block] = [2048, 32]
    const layout = blockLayout(bigbird({ block }), { queries: n, keys: n, block })
    const x = () => zeros([1, n, 2, 64], { device })
    const sparse = await flops(() => blockSparseAttention(x(), x(), x(), layout, { heads: 2 }))
    const dense = await flops(() => attention(x(), x(), x(), { heads: 2 }))
    // Eight blocks of 32 in a row, but for the first and last two rows; the whole first and last row.
    expect(layout.density).toBeGreaterThan(8 / 64 - 1 / 64)
    expect(layout.density).toBeLessThan(8 / 64 + 2 / 64)
    expect(Math.abs(sparse / dense - layout.density)).toBeLessThan(1 / 64)
    layout.dispose()
  })

  test('with global tokens every pair of positions is linked within two layers', () => {
    for (const pattern of [bigbird({ block: 16 }), longformer(8, [1], [0])]) {
      const n = 320
      const layout = blockLayout(pattern, { queries: n, keys: n, block: 16 })
      const reach = (i: number) => Array.from({ length: n }, (_, j) => layout.sees(i, j, 0))
      const seen = Array.from({ length: n }, (_, i) => reach(i))
      for (let i = 0; i < n; i += 7) {
        const two = new Uint8Array(n)
        for (let m = 0; m < n; ++m) if (seen[i][m]) for (let j = 0; j < n; ++j) if (seen[m][j]) two[j] = 1
        expect(two.every((x) => x === 1)).toBe(true)
      }
    }
  })

  test('every pattern lists what it sees, blocks in order, and causal ones see nothing later', () => {
    const patterns: [string, Pattern, boolean][] = [
      ['local', local(40), false],
      ['localCausal', localCausal(40), true],
      ['strided', strided(24, 2), true],
      ['fixed', fixed(32, 4, 2), true],
      ['longformer', longformer(8, [1, 2, 4], [5]), false],
      ['bigbird', bigbird({ block: 16, heads: 2 }), false],
      ['causal bigbird', causal(bigbird({ block: 16 })), true],
      ['custom', custom([checker], 16), false],
    ]
    for (const [name, pattern, isCausal] of patterns) {
      const n = name === 'custom' ? 48 : 150
      const sizes = { queries: n, keys: n, block: 16 }
      const layout = blockLayout(pattern, sizes)
      for (let h = 0; h < pattern.heads; ++h) {
        for (let i = 0; i < n; ++i) {
          let any = false
          for (let j = 0; j < n; ++j) {
            const sees = layout.sees(i, j, h)
            any ||= sees
            if (sees !== pattern.sees(i, j, h, sizes)) throw new Error(`${name}: head ${h}, query ${i}, key ${j}`)
            if (isCausal && sees && j > i) throw new Error(`${name}: query ${i} sees the later key ${j}`)
          }
          if (!any) throw new Error(`${name}: query ${i} sees nothing`)
        }
      }
    }
  })
})
