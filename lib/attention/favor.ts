// FAVOR+, the attention of Performer: exp(q . k / sqrt(d)) is the mean of phi(q) . phi(k) over random directions w, with
// phi(x)_r = (exp(w_r . x' - |x'|^2 / 2 - stabiliser) + eps) / sqrt(m) and x' = x / d^(1/4). Directions come in orthogonal blocks
// with the lengths of normal ones, which keeps the mean exact. Stabilisers cancel in the quotient: for queries the largest
// exponent of each row, for keys one for all (one a row would bias the result). With eps = 0 nothing of later keys leaks.
// The error grows like exp(|q' + k'|^2): it needs small logits. Source: Choromanski et al., arXiv 2009.14794.
import { noGrad } from '../autograd/tape'
import { add, addScalar, exp, mulScalar, square, sub } from '../ops/elementwise'
import { featureAttention } from '../ops/feature_attention'
import { matmul } from '../ops/matmul'
import { max, sum } from '../ops/reductions'
import { hostRandom, type RandomState } from '../tensor/random'
import { tensor, type Tensor } from '../tensor/tensor'
import { refuse, type AttentionKernel } from './kernels'

/** Directions [features, width], row by row: blocks of orthogonal rows, each as long as a normal vector would be. */
export function randomDirections(features: number, width: number, random: RandomState, orthogonal = true): Float64Array {
  const { normal } = hostRandom(random)
  const out = new Float64Array(features * width)
  const draw = () => Float64Array.from({ length: width }, normal)
  const norm = (v: Float64Array) => Math.sqrt(v.reduce((total, x) => total + x * x, 0))
  let block: Float64Array[] = []
  for (let r = 0; r < features; ++r) {
    const row = draw()
    const length = norm(orthogonal ? draw() : row)
    if (r % width === 0) block = []
    // Twice, for full precision.
    for (let pass = 0; orthogonal && pass < 2; ++pass) {
      for (const u of block) {
        const dot = u.reduce((total, x, i) => total + x * row[i], 0)
        for (let i = 0; i < width; ++i) row[i] -= dot * u[i]
      }
    }
    const size = norm(row)
    for (let i = 0; i < width; ++i) row[i] /= size
    block.push(row)
    for (let i = 0; i < width; ++i) out[r * width + i] = row[i] * length
  }
  return out
}

/** Directions as a tensor in the format of `like`. */
export function directionsLike(like: Tensor, values: Float64Array, features: number): Tensor {
  return tensor(values, [features, values.length / features], { device: like.device, dtype: like.dtype })
}

/** Directions that are a function of a seed, the layer and the number of the draw. */
export class DrawnDirections {
  draw = 0
  private readonly drawn = new Map<string, Float64Array>()

  constructor(private readonly seed: number) {}

  /** Attention of a layer by `features` directions, those of the present draw at each call. */
  kernel(layer: number, features: number, eps = 0): AttentionKernel {
    return favorKernel((like) => directionsLike(like, this.values(layer, features, like.shape[3]), features), eps)
  }

  private values(layer: number, features: number, width: number): Float64Array {
    const key = `${layer}/${features}/${width}/${this.draw}`
    let values = this.drawn.get(key)
    if (!values) {
      if (this.drawn.size > 256) this.drawn.clear()
      this.drawn.set(key, (values = randomDirections(features, width, { seed: this.seed, offset: this.draw * 65_536 + layer })))
    }
    return values
  }
}

/**
 * Positive features [batch, heads, tokens, m] of x [batch, heads, tokens, width] for directions [m, width]. `scale` is that of
 * the scores; `eps` is added to every feature.
 */
export function softmaxFeatures(x: Tensor, directions: Tensor, query: boolean, { scale, eps = 0 }: { scale: number; eps?: number }): Tensor {
  const small = mulScalar(x, Math.sqrt(scale))
  const exponents = sub(matmul(small, directions, { transposeB: true }), mulScalar(sum(square(small), [-1], { keepdims: true }), 0.5))
  const stabiliser = noGrad(() => max(exponents.detach(), query ? [-1] : [-2, -1], { keepdims: true }))
  const features = exp(sub(exponents, stabiliser))
  return mulScalar(eps ? addScalar(features, eps) : features, 1 / Math.sqrt(directions.shape[0]))
}

/**
 * Attention by the directions that `directions` gives at each call: f32 [m, width], not a parameter. The features are those of
 * softmaxFeatures(): one product of all heads gives w . x', the operator does the rest while it reads. Without eps |q'|^2 / 2
 * cancels in the quotient and is left out.
 */
export function favorKernel(directions: (like: Tensor) => Tensor, eps = 0): AttentionKernel {
  return (q, k, v, options) => {
    refuse('favor', options, ['window', 'slopes', 'segments', 'keyMask', 'dropout'])
    const scale = options.scale || 1 / Math.sqrt(q.shape[3])
    const w = mulScalar(directions(q), Math.sqrt(scale))
    const [queries, keys] = [q, k].map((x) => matmul(x, w, { transposeB: true }))
    const norms = (x: Tensor) => mulScalar(sum(square(x), [-1]), scale / 2)
    /** |x'|^2 / 2, and as a constant the largest exponent. */
    const shift = (x: Tensor, exponents: Tensor, ofAll: boolean) => {
      const own = norms(x)
      const most = noGrad(() => {
        const rows = sub(max(exponents.detach(), [-1]), own.detach())
        return ofAll ? max(rows, [1], { keepdims: true }) : rows
      })
      return add(own, most)
    }
    const more = options.causal ? 0 : eps
    return featureAttention(queries, keys, v, {
      causal: options.causal, map: 'exp', eps: more,
      queryShift: more ? shift(q, queries, false) : noGrad(() => max(queries.detach(), [-1])),
      keyShift: shift(k, keys, true),
    })
  }
}
