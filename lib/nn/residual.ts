// What may stand on a residual branch: x + factor gate F(x + shift), with a trainable gate and shift; and whether the
// branch is there at all in this pass (stochastic depth, LayerDrop). Sources: the techniques that use them.
import { cast } from '../ops/cast'
import { add, mul, mulScalar } from '../ops/elementwise'
import { defaultGenerator, hostRandom } from '../tensor/random'
import { tensor, type Tensor } from '../tensor/tensor'
import type { Parameter } from './parameter'

/** How a layer is dropped at random while training. */
export interface DepthRule {
  /** Probability of being kept, above 0. */
  keep: number
  /** One draw for the whole layer, or one for each of its branches. */
  unit: 'layer' | 'branch'
  /** One draw for the batch, which saves the computation, or one for each sample. */
  per: 'batch' | 'sample'
  /** Branches are divided by `keep` in training, or multiplied by it in evaluation, or neither. */
  rescale: 'training' | 'evaluation' | 'none'
}

/** What a draw says of a branch: absent, or its factor, a number or a column f32 [batch, 1, 1]. */
export type BranchFactor = null | number | Tensor

/** Draws whether a branch of `rule` is there. */
export function drawBranch(rule: DepthRule, x: Tensor): BranchFactor {
  const { uniform } = hostRandom(defaultGenerator.next())
  const factor = rule.rescale === 'training' ? 1 / rule.keep : 1
  if (rule.per === 'batch') return uniform() < rule.keep ? factor : null
  const columns = Float32Array.from({ length: x.shape[0] }, () => (uniform() < rule.keep ? factor : 0))
  return tensor(columns, [x.shape[0], 1, 1], { device: x.device, dtype: x.dtype })
}

const inFormatOf = (value: Tensor, x: Tensor) => (value.dtype === x.dtype ? value : cast(value, x.dtype))

/** x plus a trainable scalar, where there is one. */
export function shifted(x: Tensor, shift: Parameter | null): Tensor {
  return shift ? add(x, inFormatOf(shift.value, x)) : x
}

/** x times a trainable scalar, where there is one. */
export function gated(x: Tensor, gate: Parameter | null): Tensor {
  return gate ? mul(x, inFormatOf(gate.value, x)) : x
}

/** x times the factor of a draw. */
export function timesFactor(x: Tensor, factor: number | Tensor): Tensor {
  return factor === 1 ? x : typeof factor === 'number' ? mulScalar(x, factor) : mul(x, factor)
}
