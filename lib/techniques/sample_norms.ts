// The norm of every sample's own gradient from one backward pass (ghost norms). A matrix with inputs x_t and output
// gradients d_t has |dL/dW|^2 = sum over t, t' of (x_t x_t') (d_t d_t'), so the gradient itself is never made; where that is
// cheaper, it is, for one sample at a time in a batched product. Tables: the same with [id_t = id_t'] for the first factor.
// A tensor used several times (a tied head) has the norm of its summed gradient, cross terms included.
// Sources: Goodfellow, arXiv 1510.01799; Li et al., arXiv 2110.05679.
import { backward } from '../autograd/backward'
import { currentTape, noGrad, type TapeRecord } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import { expand } from '../ops/broadcast'
import { cast } from '../ops/cast'
import { arange } from '../ops/creation'
import { add, equal, mul, sqrt, square, sub } from '../ops/elementwise'
import { gather } from '../ops/gather'
import { matmul, product, type Activation } from '../ops/matmul'
import { sum } from '../ops/reductions'
import { reshape } from '../ops/reshape'
import { transpose } from '../ops/permute'
import { keep, scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'

/** A part of a tensor's gradient, by sample. T stands for the tokens of a sample. */
type Part =
  /** sum over t of delta_t x_t^T. x [n, T, in], delta [n, T, out]. */
  | { kind: 'product'; x: Tensor; delta: Tensor }
  /** delta_t added to row id_t. ids i32 [n, T], delta [n, T, width]. */
  | { kind: 'rows'; ids: Tensor; delta: Tensor }
  /** [n, width]. */
  | { kind: 'vector'; value: Tensor }

const wide = (x: Tensor) => (x.dtype === 'f64' ? x : cast(x, 'f32'))

/** x with its rows by sample: [n, T, columns]. */
function bySample(x: Tensor, samples: number, columns = x.shape[x.rank - 1]): Tensor {
  return wide(x).viewAs([samples, x.size / columns / samples, columns])
}

/** The parts of the gradients that a record leaves at its leaves, by position among its inputs. */
function partsOf(record: TapeRecord, grad: Tensor, samples: number): Map<number, Part> {
  const { op, saved, inputs } = record
  const of = (x: Tensor) => bySample(x, samples)
  const vector = (x: Tensor): Part => ({ kind: 'vector', value: sum(x, 1) })
  const times = (x: Tensor, delta: Tensor): Part => ({ kind: 'product', x: of(x), delta })
  const delta = of(grad)
  const found = new Map<number, Part>()
  const put = (i: number, part: () => Part) => {
    if (inputs[i]?.leaf && inputs[i].needsGrad) found.set(i, part())
  }
  if (op === 'linear') {
    put(1, () => times(saved[0]!, delta))
    put(2, () => vector(delta))
  } else if (op === 'feed_forward') {
    const [, , down, hidden, pre] = saved as Tensor[]
    let known: { gradPre: Tensor; hidden: Tensor } | undefined
    const inner = () => (known ??= make())
    const make = () => {
      const g = grad.viewAs([grad.size / down.shape[0], down.shape[0]])
      const gradActivation = record.attrs!.activation as Activation
      const [gradPre, again] = product(cast(g, down.dtype), down, { gradInput: pre, gradActivation, saveActivatedInput: !hidden })
      return { gradPre: of(gradPre), hidden: hidden ?? again }
    }
    put(1, () => times(saved[0]!, inner().gradPre))
    put(2, () => vector(inner().gradPre))
    put(3, () => times(inner().hidden, delta))
    put(4, () => vector(delta))
  } else if (op === 'embedding') {
    const [, ids, , positions] = saved
    const shaped = (x: Tensor) => x.viewAs([samples, x.size / samples])
    put(0, () => ({ kind: 'rows', ids: shaped(ids!), delta }))
    put(1, () => {
      if (positions) return { kind: 'rows', ids: shaped(positions), delta }
      const { offset } = record.attrs as { offset: number }
      const tokens = delta.shape[1]
      const places = arange(offset + tokens, { start: offset, device: delta.device.name })
      return { kind: 'rows', ids: expand(reshape(places, [1, tokens]), [samples, tokens]), delta }
    })
  } else if (op === 'layer_norm' || op === 'rms_norm') {
    const normalized = () => {
      const x = of(saved[0]!)
      const stats = (s: Tensor) => cast(s, x.dtype).viewAs([samples, x.shape[1], 1])
      return op === 'rms_norm' ? mul(x, stats(saved[2]!)) : mul(sub(x, stats(saved[2]!)), stats(saved[3]!))
    }
    put(1, () => vector(mul(delta, normalized())))
    if (op === 'layer_norm') put(2, () => vector(delta))
  }
  const missing = inputs.findIndex((input, i) => input.leaf && input.needsGrad && !found.has(i))
  if (missing >= 0 || op === 'checkpoint') {
    throw new LeanformerError(
      'ERR_ARGUMENT',
      `sampleGradientNorms: ${op} has a parameter whose gradient by sample is not known`,
      'parameters of linear, feed-forward, embedding and norm layers are; turn checkpointing off',
    )
  }
  return found
}

const overTokens = (x: Tensor) => sum(x, [1, 2])
const grid = (a: Tensor, b: Tensor) => matmul(a, b, { transposeB: true })

/** Inner products of two parts of one gradient, by sample: [n]. */
function inner(a: Part, b: Part): Tensor {
  if (a.kind === 'vector' && b.kind === 'vector') return sum(mul(a.value, b.value), 1)
  if (a.kind === 'product' && b.kind === 'product') {
    const [, tokens, columns] = a.x.shape
    if (a === b && tokens * tokens > (columns * a.delta.shape[2]) / 2) return overTokens(square(matmul(a.delta, a.x, { transposeA: true })))
    return overTokens(mul(grid(a.x, b.x), grid(a.delta, b.delta)))
  }
  if (a.kind === 'rows' && b.kind === 'rows') {
    const [n, left] = a.ids.shape
    const right = b.ids.shape[1]
    const same = equal(expand(reshape(a.ids, [n, left, 1]), [n, left, right]), expand(reshape(b.ids, [n, 1, right]), [n, left, right]))
    return overTokens(mul(cast(same, a.delta.dtype), grid(a.delta, b.delta)))
  }
  if (a.kind === 'rows' && b.kind === 'product') {
    const [n, left] = a.ids.shape
    const right = b.x.shape[1]
    const at = expand(reshape(a.ids, [n, 1, left]), [n, right, left])
    return overTokens(mul(transpose(grid(a.delta, b.x)), gather(b.delta, 2, at)))
  }
  if (a.kind === 'product' && b.kind === 'rows') return inner(b, a)
  throw new LeanformerError('ERR_ARGUMENT', 'sampleGradientNorms: a tensor is used both as a vector and as a matrix')
}

const tensorsOf = (part: Part) => (part.kind === 'product' ? [part.x, part.delta] : part.kind === 'rows' ? [part.ids, part.delta] : [part.value])

/** The squared norm by sample of what all parts of one tensor's gradient add up to. */
function squaredNorm(parts: Part[]): Tensor {
  const pairs = parts.flatMap((a, i) => parts.slice(i).map((b) => (a === b ? inner(a, a) : mul(inner(a, b), 2))))
  return pairs.reduce((x, y) => add(x, y))
}

/**
 * [samples]: the norm of each sample's gradient over all parameters. `loss` is the sum (not the mean) of the samples'
 * losses, and every tensor of the model has its samples along the first axis. Consumes the tape. With `gradients`, the
 * parameters' grad is filled as by backward(); otherwise products for it are left out.
 * @throws ERR_ARGUMENT for a layer with parameters of another kind
 */
export function sampleGradientNorms(loss: Tensor, samples: number, { gradients = false } = {}): Tensor {
  const uses = new Map<Tensor, number>()
  for (const { inputs } of currentTape()?.records ?? []) {
    for (const { leaf, needsGrad } of inputs) if (leaf && needsGrad) uses.set(leaf, (uses.get(leaf) ?? 0) + 1)
  }
  const held = new Map<Tensor, Part[]>()
  let total: Tensor | null = null
  const take = (squared: Tensor) => {
    const before = total
    total = keep(before ? add(before, squared) : squared)
    before?.dispose()
  }
  backward(loss, null, {
    leaves: gradients,
    observe(record, [grad]) {
      if (!record.inputs.some(({ leaf, needsGrad }) => leaf && needsGrad) && record.op !== 'checkpoint') return
      for (const [i, part] of partsOf(record, grad!, samples)) {
        const leaf = record.inputs[i].leaf!
        if (uses.get(leaf) === 1) take(squaredNorm([part]))
        else {
          tensorsOf(part).forEach((tensor) => keep(tensor))
          held.set(leaf, [...(held.get(leaf) ?? []), part])
        }
      }
    },
  })
  return noGrad(() => {
    for (const parts of held.values()) {
      scope(() => take(squaredNorm(parts)))
      for (const part of parts) for (const tensor of tensorsOf(part)) tensor.dispose()
    }
    const out = scope(() => sqrt(total!))
    total!.dispose()
    return out
  })
}
