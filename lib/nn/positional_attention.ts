// Gated positional self-attention (GPSA): per head a mixture of softmax attention by content and a softmax over relative
// positions,
//   A = (1 - sigmoid(gate)) softmax_j(q_i k_j / sqrt(d)) + sigmoid(gate) softmax_j(p . r_ij).
// In one dimension r_ij = ((j - i)^2, j - i), in two r_ij = (dx, dy, dx^2 + dy^2). Starting at p = locality (-1, 2 c), or
// locality (2 cx, 2 cy, -1), head h looks at offset c: it is a convolution at first. Rows of either softmax sum to 1.
// Source: d'Ascoli et al., arXiv 2103.10697; the form in one dimension is ours.
import { LeanformerError } from '../native/errors'
import { attention, type AttentionOptions as KernelOptions } from '../ops/attention'
import { full } from '../ops/creation'
import { normal } from '../init/normal'
import { add, equal, mul, scale, sigmoid } from '../ops/elementwise'
import { cast } from '../ops/cast'
import { matmul } from '../ops/matmul'
import { permute } from '../ops/permute'
import { reshape } from '../ops/reshape'
import { softmax } from '../ops/softmax'
import { where } from '../ops/where'
import { tensor, type Tensor } from '../tensor/tensor'
import { noGrad } from '../autograd/tape'
import { scope } from '../tensor/scope'
import { Attention, seen, type AttentionOptions } from './attention'
import type { KeyValueCache } from './key_value_cache'
import { Parameter } from './parameter'

export interface PositionalAttentionOptions extends AttentionOptions {
  /** Side lengths [rows, columns] of an image's patches; default: text, one dimension. */
  grid?: readonly [rows: number, columns: number]
  /** How sharply a head looks at its offset at first; default 1. */
  locality?: number
}

/** The offset each head looks at: one number in text, (dx, dy) in images, where heads beyond a square have none. */
export function headOffsets(heads: number, causal: boolean, image: boolean): (readonly number[] | null)[] {
  if (!image) return Array.from({ length: heads }, (_, h) => [causal ? 0 - h : h - (heads - 1) / 2])
  const side = Math.floor(Math.sqrt(heads))
  const centre = (side - 1) / 2
  return Array.from({ length: heads }, (_, h) =>
    h < side * side ? [(h % side) - centre, Math.floor(h / side) - centre] : null,
  )
}

export class PositionalAttention extends Attention {
  /** f32 [heads]: the mixture of each head before its sigmoid, 1 at first. */
  mixture: Parameter
  /** f32 [heads, 2] (text) or [heads, 3] (images): p. */
  position: Parameter
  private readonly grid: readonly [number, number] | null
  private readonly causal: boolean

  constructor(width: number, options: PositionalAttentionOptions) {
    super(width, options)
    const { heads, grid = null, locality = 1, causal = true, generator, device, dtype } = options
    const wrong = (text: string, hint: string) => new LeanformerError('ERR_ARGUMENT', `PositionalAttention: ${text}`, hint)
    if (this.kvHeads !== heads) throw wrong(`kvHeads is ${this.kvHeads} with ${heads} heads`, 'it has no grouped queries: leave kvHeads out')
    if (options.window || options.slopes) throw wrong('it has positions of its own', 'leave window and ALiBi out')
    if (grid && causal) throw wrong('images have no order of tokens', 'give causal: false with a grid')
    this.grid = grid
    this.causal = causal
    this.mixture = new Parameter(full([heads], 1, { device, dtype }))
    const columns = grid ? 3 : 2
    const start = normal(0.02)([heads, columns], { device, dtype, generator })
    this.position = new Parameter(start)
    this.setLocality(locality)
  }

  /** Makes each head look at its own offset, this sharply. Heads without an offset stay as they are. */
  setLocality(locality: number): void {
    const { grid, heads, position } = this
    const { device, dtype } = position.tensor
    scope(() => {
      const rows = headOffsets(heads, this.causal, grid !== null).map((offset) => {
        if (!offset) return null
        return grid ? [2 * offset[0] * locality, 2 * offset[1] * locality, -locality] : [-locality, 2 * offset[0] * locality]
      })
      const width = grid ? 3 : 2
      const values = tensor(rows.flatMap((row) => row ?? Array<number>(width).fill(0)), [heads, width], { device, dtype })
      const known = tensor(rows.flatMap((row) => Array<number>(width).fill(row ? 1 : 0)), [heads, width], { device, dtype: 'bool' })
      position.set(noGrad(() => where(known, values, position.tensor)))
    })
  }

  protected override mix(qkv: Tensor, cache: KeyValueCache | null, options: KernelOptions): Tensor {
    const [batch, tokens] = qkv.shape
    const parts = this.splitHeads(qkv)
    const { q } = parts
    const past = cache ? this.remember(cache, parts.k, parts.v) : null
    const [k, v] = past ? seen(past, cache!.length) : [parts.k, parts.v]
    const content = this.kernel ? this.kernel(q, k, v, options) : attention(q, k, v, options)
    const weights = this.positionWeights(tokens, k.shape[1], past ? null : (options.segments ?? null))
    const positional = attendBy(weights.dtype === v.dtype ? weights : cast(weights, v.dtype), v)
    const share = reshape(sigmoid(this.mixture.tensor), [this.heads, 1])
    const mixed = add(mul(content, like(scale(share, -1, 1), q)), mul(positional, like(share, q)))
    return reshape(mixed, [batch, tokens, this.heads * this.headWidth])
  }

  /** The softmax over positions: [heads, queries, keys], or [batch, heads, queries, keys] with segments. */
  positionWeights(queries: number, keys: number, segments: Tensor | null = null): Tensor {
    const { position, heads } = this
    const { device, dtype } = position.tensor
    const columns = this.relations(queries, keys)
    const relations = tensor(columns, [position.shape[1], queries * keys], { device, dtype })
    let logits = reshape(matmul(position.tensor, relations), [heads, queries, keys])
    const hidden = (seen: Tensor) => where(seen, logits, -Infinity)
    if (this.causal) {
      const seen = Uint8Array.from({ length: queries * keys }, (_, at) => (at % keys <= keys - queries + Math.floor(at / keys) ? 1 : 0))
      logits = hidden(tensor(seen, [queries, keys], { device, dtype: 'bool' }))
    }
    if (segments) {
      const batch = segments.shape[0]
      logits = hidden(equal(reshape(segments, [batch, 1, queries, 1]), reshape(segments, [batch, 1, 1, keys])))
    }
    return softmax(logits)
  }

  /**
   * How local the heads are on an input x [batch, tokens, width]: sigmoid(gate), and the mean distance that each looks
   * at, sum_ij A_ij |i - j| / tokens (in images the distance in the plane).
   */
  async locality(x: Tensor): Promise<{ gate: number[]; distance: number[] }> {
    const { heads, headWidth, causal } = this
    const [batch, tokens] = x.shape
    const { gate, average } = scope(() =>
      noGrad(() => {
        const { q, k } = this.splitHeads(this.qkv.call(x))
        const rows = (part: Tensor) => permute(part, [0, 2, 1, 3])
        let scores = scale(matmul(rows(q), rows(k), { transposeB: true }), this.options.scale || 1 / Math.sqrt(headWidth))
        if (causal) {
          const seen = Uint8Array.from({ length: tokens * tokens }, (_, at) => (at % tokens <= Math.floor(at / tokens) ? 1 : 0))
          scores = where(tensor(seen, [tokens, tokens], { device: x.device, dtype: 'bool' }), scores, -Infinity)
        }
        const gate = sigmoid(this.mixture.tensor)
        const share = reshape(gate, [heads, 1, 1])
        const weights = this.positionWeights(tokens, tokens)
        return { gate, average: add(mul(softmax(scores), scale(share, -1, 1)), mul(weights, share)) }
      }),
    )
    const a = await average.toFloat64()
    const gates = Array.from(await gate.toFloat64())
    average.dispose()
    gate.dispose()
    const distances = this.distances(tokens)
    const distance = Array.from({ length: heads }, (_, h) => {
      let sum = 0
      for (let b = 0; b < batch; ++b) {
        const from = (b * heads + h) * tokens * tokens
        for (let at = 0; at < tokens * tokens; ++at) sum += a[from + at] * distances[at]
      }
      return sum / batch / tokens
    })
    return { gate: gates, distance }
  }

  private distances(tokens: number): Float64Array {
    return Float64Array.from({ length: tokens * tokens }, (_, at) => {
      const [dx, dy] = this.offset(Math.floor(at / tokens), at % tokens)
      return Math.hypot(dx, dy)
    })
  }

  /** Place of key j seen from query i, both counted along the keys. */
  private offset(i: number, j: number): [dx: number, dy: number] {
    if (!this.grid) return [j - i, 0]
    const columns = this.grid[1]
    return [(j % columns) - (i % columns), Math.floor(j / columns) - Math.floor(i / columns)]
  }

  /** r of every query and key, one row of the result for each entry of r. */
  private relations(queries: number, keys: number): Float64Array {
    const { grid } = this
    if (grid && (queries !== grid[0] * grid[1] || keys !== queries)) {
      throw new LeanformerError('ERR_SHAPE', `PositionalAttention: ${queries} tokens are not a grid of ${grid[0]} x ${grid[1]}`)
    }
    const count = queries * keys
    const out = new Float64Array((grid ? 3 : 2) * count)
    for (let at = 0; at < count; ++at) {
      const [dx, dy] = this.offset(keys - queries + Math.floor(at / keys), at % keys)
      const square = dx * dx + dy * dy
      const r = grid ? [dx, dy, square] : [square, dx]
      for (const [row, value] of r.entries()) out[row * count + at] = value
    }
    return out
  }
}

const like = (x: Tensor, other: Tensor) => (x.dtype === other.dtype ? x : cast(x, other.dtype))

/** weights [(batch,) heads, queries, keys] times v [batch, keys, heads, width] -> [batch, queries, heads, width]. */
function attendBy(weights: Tensor, v: Tensor): Tensor {
  const [batch, keys, heads, width] = v.shape
  if (weights.rank === 4) return permute(matmul(weights, permute(v, [0, 2, 1, 3])), [0, 2, 1, 3])
  // One product a head for the whole batch.
  const columns = reshape(permute(v, [2, 1, 0, 3]), [heads, keys, batch * width])
  const queries = weights.shape[1]
  return permute(reshape(matmul(weights, columns), [heads, queries, batch, width]), [2, 1, 0, 3])
}
