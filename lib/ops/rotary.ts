// Rotary position embedding. Source: Su et al., arXiv 2104.09864.
import { record } from '../autograd/tape'
import { run1, type Tensor } from '../tensor/tensor'

export interface RotaryOptions {
  /** Query heads of a packed [batch, tokens, (heads + 2 kvHeads) * width]; leave out for [batch, tokens, heads, width]. */
  heads?: number
  kvHeads?: number
  /** Default 10000. */
  base?: number
  /** Pairs are neighbours (GPT-J); default: j and j + width / 2 (LLaMA). */
  interleaved?: boolean
  /** Position of the first token; default 0. */
  offset?: number
  /** i32 [batch, tokens], in place of offset, offset + 1, ... */
  positions?: Tensor | null
}

/**
 * Turns each pair of numbers of each head by an angle that grows with the position. In the packed form queries and keys
 * turn, values stay.
 * @throws ERR_SHAPE, ERR_ARGUMENT
 */
export function rotary(x: Tensor, options: RotaryOptions = {}): Tensor {
  const { heads = 0, kvHeads = heads, base = 10000, interleaved = false, offset = 0, positions } = options
  const attrs = { heads, kv_heads: kvHeads, base, interleaved, offset, inverse: false }
  const out = run1('rotary', [x, positions], attrs)
  record('rotary', [x], [out], [positions], ([grad], [places]) => [run1('rotary', [grad, places], { ...attrs, inverse: true })])
  return out
}
