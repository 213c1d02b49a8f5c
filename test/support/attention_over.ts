// The float64 reference of attention over some of the keys: softmax of what each query of each head sees, in the order of its
// list, rounded at each step.
import { host, type HostTensor, type Rounding } from './op_case'

// Globals are slow to reach from within jest.
const { exp, floor } = Math

/** q [batch, queries, heads, width], k and v [batch, keys, kvHeads, width]; a query that sees nothing gives zeros. */
export function attentionOver(
  [q, k, v]: HostTensor[],
  keysSeen: (head: number, query: number) => readonly number[],
  givenScale: number | undefined,
  r: Rounding,
): HostTensor {
  const [batch, queries, heads, width] = q.shape
  const [, keys, kvHeads] = k.shape
  const scale = r(givenScale ?? 1 / Math.sqrt(width))
  const out = new Float64Array(q.data.length)
  for (let b = 0; b < batch; ++b) {
    for (let h = 0; h < heads; ++h) {
      const g = floor(h / (heads / kvHeads))
      for (let i = 0; i < queries; ++i) {
        const seen = keysSeen(h, i)
        const scores = seen.map((j) => {
          let s = 0
          for (let d = 0; d < width; ++d) {
            const x = r(q.data[((b * queries + i) * heads + h) * width + d] * scale)
            s = r(s + r(x * k.data[((b * keys + j) * kvHeads + g) * width + d]))
          }
          return s
        })
        const highest = scores.reduce((a, c) => (c > a ? c : a), -Infinity)
        const exps = scores.map((s) => r(exp(r(s - highest))))
        const sum = exps.reduce((a, c) => r(a + c), 0)
        for (let d = 0; d < width; ++d) {
          let t = 0
          for (const [n, j] of seen.entries()) t = r(t + r(exps[n] * v.data[((b * keys + j) * kvHeads + g) * width + d]))
          out[((b * queries + i) * heads + h) * width + d] = sum > 0 ? r(t / sum) : 0
        }
      }
    }
  }
  return host(q.shape, out)
}
