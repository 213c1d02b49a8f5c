// Gradient clipping by the global norm, decided on the device: c = min(1, maxNorm / (norm + 1e-6)).
import { run, type Tensor } from '../tensor/tensor'

export interface ClipOptions {
  /** Largest norm; 0 does not clip. */
  maxNorm?: number
  /** Factor that undoes a loss scale, applied before clipping. */
  unscale?: number
}

/**
 * The norm over all gradients together, [1], as they are; and what optimisers need to clip them: [2], the factor of
 * every gradient and a flag that is 1 when the norm is not finite (then updates are skipped).
 */
export function clipGradNorm(grads: readonly Tensor[], options: ClipOptions = {}): { norm: Tensor; clip: Tensor } {
  const [norm, clip] = run('grad_norm_clip', grads, { max_norm: options.maxNorm ?? 1, unscale: options.unscale ?? 1 })
  return { norm, clip }
}
