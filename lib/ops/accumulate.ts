// Sums in place, outside of the tape.
import { run1, type Tensor } from '../tensor/tensor'

/** target += x, of equal shape and format. Not differentiable: for totals, and for gradients that arrive in parts. */
export function accumulate(target: Tensor, x: Tensor): void {
  run1('accumulate', [target, x], {})
}
