// The products of `npm run bench -- matmul`: those of the first two workloads of bench/step, forward and for both gradients;
// a large square one; small and skinny ones.
import { workloads } from '../step/workloads'

export interface ProductShape {
  name: string
  m: number
  n: number
  k: number
  batch: number
  transposeA: boolean
  transposeB: boolean
  /** Near the ceiling (the rest: no slower than PyTorch). */
  large: boolean
}

/** y = x W^T with W [to, from], and its two gradients. */
function layer(name: string, rows: number, from: number, to: number): ProductShape[] {
  return [
    { name: `${name} forward`, m: rows, n: to, k: from, batch: 1, transposeA: false, transposeB: true, large: true },
    { name: `${name} input gradient`, m: rows, n: from, k: to, batch: 1, transposeA: false, transposeB: false, large: true },
    { name: `${name} weight gradient`, m: to, n: from, k: rows, batch: 1, transposeA: true, transposeB: false, large: true },
  ]
}

const plain = (m: number, n: number, k: number, over: Partial<ProductShape> = {}): ProductShape => ({
  name: 'plain', m, n, k, batch: 1, transposeA: false, transposeB: false, large: false, ...over,
})

export const shapes: ProductShape[] = [
  plain(1024, 1024, 1024, { name: 'square', large: true }),
  ...['gpt6x384', 'gpt2_124m'].flatMap((workload) => {
    const { width, batch, context, vocab } = workloads[workload]
    const rows = batch * context
    return [
      ...layer(`${workload} qkv`, rows, width, 3 * width),
      ...layer(`${workload} projection`, rows, width, width),
      ...layer(`${workload} up`, rows, width, 4 * width),
      ...layer(`${workload} down`, rows, 4 * width, width),
      ...layer(`${workload} head`, rows, width, vocab),
    ]
  }),
  ...[16, 32, 64, 128, 256].map((n) => plain(n, n, n)),
  // One token, and a few, through a layer.
  ...[1, 2, 4, 8, 16].map((rows) => plain(rows, 768, 768, { transposeB: true })),
  plain(1, 3072, 768, { transposeB: true }),
  plain(1, 50257, 768, { transposeB: true }),
  plain(4096, 8, 512),
  plain(8, 4096, 512),
  plain(512, 512, 8),
  plain(768, 768, 16, { transposeA: true }),
  // Heads of attention.
  plain(64, 64, 32, { batch: 48, transposeB: true }),
  plain(256, 256, 64, { batch: 12, transposeB: true }),
  plain(256, 64, 256, { batch: 12 }),
]
