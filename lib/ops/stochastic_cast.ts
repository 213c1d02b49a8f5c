// Stochastic rounding. Source: Zamirai et al., arXiv 2010.06192.
import type { RandomState } from '../tensor/random'
import { run1, type Tensor } from '../tensor/tensor'

/**
 * f32 to bf16, up or down at random so that the mean is x: 1 + 1/512 becomes 1 three times of four and 1 + 1/128 once.
 * Numbers that bf16 holds stay as they are. `block` names the random numbers, the same on every device. No gradient.
 * @throws ERR_DTYPE
 */
export function stochasticCast(x: Tensor, block: RandomState): Tensor {
  return run1('stochastic_cast', [x], { seed: block.seed, offset: block.offset })
}
