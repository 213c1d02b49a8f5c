// The head of a language model and its cross-entropy in one operator; see native/ops/linear_cross_entropy.cpp.
import { record, recording } from '../autograd/tape'
import { run, run1, type Tensor } from '../tensor/tensor'

export interface LinearCrossEntropyOptions {
  /** Factor of the summed loss. Default: 1 / counted tokens, the mean. Give 1 / counted tokens of the whole batch for one
   * part of it. */
  scale?: number
  /** [vocab]: added to the logits. f32 beside 16-bit inputs if wanted. */
  bias?: Tensor | null
  /** Target that does not count; default -1. */
  ignoreIndex?: number
  /** Share of the target probability spread over the whole vocabulary; default 0. */
  labelSmoothing?: number
}

/**
 * Cross-entropy of softmax(x W^T + bias) against targets, as a scalar; x [..., width], weight [vocab, width], targets i32 [...].
 * The [tokens, vocab] logits are never held, and the gradients come from the same pass. f32, f16, bf16 (logits and loss in
 * f32) and f64. Without any counted token the loss is 0.
 * @throws ERR_SHAPE, ERR_DTYPE; a target outside the vocabulary fails the device's stream with ERR_KERNEL
 */
export function linearCrossEntropy(
  x: Tensor,
  weight: Tensor,
  targets: Tensor,
  options: LinearCrossEntropyOptions = {},
): Tensor {
  const { scale = 0, bias, ignoreIndex = -1, labelSmoothing = 0 } = options
  const withGradients = recording([x, weight, bias])
  const [loss, , ...gradients] = run(
    'linear_cross_entropy',
    [x.viewAs([targets.size, x.shape[x.rank - 1]]), weight, targets.viewAs([targets.size]), bias],
    { ignore_index: ignoreIndex, label_smoothing: labelSmoothing, scale, with_gradients: withGradients },
  )
  if (withGradients) {
    const shape = x.shape
    record('linear_cross_entropy', [x, weight, bias], [loss], gradients, ([grad], [gradX, gradW, gradBias]) => {
      // The starting gradient of backward() is 1: then both are what they should be.
      const scaled = (t: Tensor) =>
        grad!.isOne ? t : run1('mul', [t, grad!.dtype === t.dtype ? grad! : run1('cast', [grad!], { dtype: t.dtype })], {})
      return [scaled(gradX).viewAs(shape), scaled(gradW), gradBias ? scaled(gradBias) : null]
    })
    // The record's alone: backward() may then give them away as gradients instead of copies.
    for (const gradient of gradients) gradient.dispose()
  }
  return loss
}
