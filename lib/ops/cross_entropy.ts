// Cross-entropy of logits that exist already. For a language model's head, linearCrossEntropy() never makes them.
import { record } from '../autograd/tape'
import { run, run1, tensor, type Tensor } from '../tensor/tensor'

export interface CrossEntropyOptions {
  /** Target that does not count; default -1. */
  ignoreIndex?: number
  /** Share of the target probability spread over all classes; default 0. */
  labelSmoothing?: number
  /** 'mean' (default) over the counted rows, 'sum', or 'none' for one loss a row. */
  reduction?: 'mean' | 'sum' | 'none'
}

/**
 * logits [..., classes], targets i32 [...] -> a scalar, or [...] without reduction; f32 (f64 for f64). Ignored rows give 0;
 * the mean over no row at all is 0.
 * @throws ERR_SHAPE, ERR_DTYPE; a target outside the classes fails the device's stream with ERR_KERNEL
 */
export function crossEntropy(logits: Tensor, targets: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const { ignoreIndex = -1, labelSmoothing = 0, reduction = 'mean' } = options
  const attrs = { ignore_index: ignoreIndex, label_smoothing: labelSmoothing }
  const classes = logits.shape[logits.rank - 1]
  const rows = logits.viewAs([targets.size, classes])
  const flat = targets.viewAs([targets.size])
  const [losses, logSums] = run('cross_entropy', [rows, flat], attrs)
  // The factor of each row's gradient, on the device: 1 / counted rows for the mean.
  const weight = reduction === 'mean' ? meanWeight(flat, ignoreIndex, losses) : null
  const sum = () => run1('sum', [losses], { axes: [0], keepdims: false })
  const out = reduction === 'none' ? losses.viewAs(targets.shape) : weight ? run1('mul', [sum(), weight], {}) : sum()
  record('cross_entropy', [logits], [out], [logits, flat, logSums, weight], ([grad], [z, t, l, w]) => {
    const scaled = w ? run1('mul', [grad, w], {}) : grad!
    const each = reduction === 'none' ? scaled.viewAs([t.size]) : run1('mul', [scaled, run1('fill', [], { shape: [t.size], value: 1, dtype: l.dtype }, l.device)], {})
    return [run1('cross_entropy_backward', [each, z.viewAs([t.size, classes]), t, l], attrs).viewAs(z.shape)]
  })
  return out
}

/** 1 / max(1, number of targets that count), as a scalar in the losses' format. */
function meanWeight(targets: Tensor, ignoreIndex: number, losses: Tensor): Tensor {
  const ignored = tensor([ignoreIndex], [1], { dtype: 'i32', device: targets.device })
  const counts = run1('cast', [run1('ne', [targets, ignored], {})], { dtype: losses.dtype })
  const count = run1('sum', [counts], { axes: [0], keepdims: false })
  const one = run1('fill', [], { shape: [], value: 1, dtype: losses.dtype }, losses.device)
  return run1('div', [one, run1('maximum', [count, one], {})], {})
}
