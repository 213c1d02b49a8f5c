// Fully connected layers: linear, and the two-layer feed-forward block with its activation inside the products.
import { LeanformerError } from '../native/errors'
import { record, recording, type GradientContext } from '../autograd/tape'
import { run1, type Tensor } from '../tensor/tensor'
import { gradDType, product, type Activation } from './matmul'

/** All leading axes as one: [rows, columns]. Free. */
function asRows(x: Tensor): Tensor {
  const columns = x.shape[x.rank - 1]
  return x.rank === 2 ? x : x.viewAs([columns === 0 ? 0 : x.size / columns, columns])
}

/** The gradient in the format that products with `like` need. */
function inFormatOf(grad: Tensor, like: Tensor): Tensor {
  return grad.dtype === like.dtype ? grad : run1('cast', [grad], { dtype: like.dtype })
}

/**
 * Gradients of W and b of y = x W^T + b from dy, in one product: dW = dy^T x, with db as the row sums of dy^T. Adds to
 * the leaves' existing gradients in place where it can. `w` and `b` are positions among the record's inputs.
 */
function weightGradients(
  grad: Tensor,
  x: Tensor,
  context: GradientContext,
  w: number,
  b: number,
  hasBias: boolean,
): [Tensor | null, Tensor | null] {
  const wantsBias = hasBias && context.needs(b)
  if (!context.needs(w)) {
    return [null, wantsBias ? run1('sum', [asRows(grad)], { axes: [0], keepdims: false }) : null]
  }
  const outDType = gradDType(x, context.dtype(w))
  const into = context.existing(w)
  const biasInto = wantsBias ? context.existing(b) : null
  const inPlace =
    into !== null && into.dtype === outDType && (!wantsBias || (biasInto !== null && biasInto.dtype === sumsDType(x)))
  const results = product(asRows(grad), asRows(x), {
    transposeA: true,
    outDType,
    rowSums: wantsBias,
    into: inPlace ? into : null,
    rowSumsInto: inPlace ? biasInto : null,
  })
  return inPlace ? [into, biasInto] : [results[0], wantsBias ? results[1] : null]
}

const sumsDType = (x: Tensor) => (x.dtype === 'f64' ? 'f64' : 'f32')

function checkLinear(name: string, x: Tensor, weight: Tensor): void {
  if (weight.rank !== 2 || x.rank < 1 || x.shape[x.rank - 1] !== weight.shape[1]) {
    throw new LeanformerError(
      'ERR_SHAPE',
      `${name}: x has shape [${x.shape.join(', ')}] and weight [${weight.shape.join(', ')}]`,
      'weight is [out, in] and the last axis of x is in',
    )
  }
}

/**
 * y = x W^T + b (+ residual). x [..., in], weight [out, in], bias [out], residual [..., out]. The addition happens while
 * the product is in cache. f32, f16, bf16 (sums in f32), f64; the bias may be f32 beside 16-bit inputs.
 * @throws ERR_SHAPE, ERR_DTYPE
 */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor | null, residual?: Tensor | null): Tensor {
  checkLinear('linear', x, weight)
  const shape = [...x.shape.slice(0, -1), weight.shape[0]]
  const [flat] = product(asRows(x), weight, { transposeB: true, bias, residual: residual ? asRows(residual) : null })
  const out = flat.viewAs(shape)
  record('linear', [x, weight, bias, residual], [out], [x, weight], ([grad], [input, w], context) => {
    const g = inFormatOf(grad!, input)
    const dx = context.needs(0) ? product(asRows(g), w, {})[0].viewAs(input.shape) : null
    const [dw, db] = weightGradients(g, input, context, 1, 2, bias != null)
    return [dx, dw, db, context.needs(3) ? grad : null]
  })
  return out
}

export interface FeedForwardWeights {
  up: Tensor
  upBias?: Tensor | null
  down: Tensor
  downBias?: Tensor | null
}

/**
 * y = activation(x U^T + u) D^T + d (+ residual), the feed-forward block of a transformer. x [..., in], up [hidden, in],
 * down [out, hidden]. Activation and its derivative are applied inside the products, so the hidden layer is never passed
 * over on its own.
 * @throws ERR_SHAPE, ERR_DTYPE
 */
export function feedForward(
  x: Tensor,
  weights: FeedForwardWeights,
  activation: Exclude<Activation, 'none'>,
  residual?: Tensor | null,
): Tensor {
  const { up, down, upBias, downBias } = weights
  checkLinear('feedForward', x, up)
  if (down.rank !== 2 || down.shape[1] !== up.shape[0]) {
    throw new LeanformerError(
      'ERR_SHAPE',
      `feedForward: up has shape [${up.shape.join(', ')}] and down [${down.shape.join(', ')}]`,
      'up is [hidden, in] and down is [out, hidden]',
    )
  }
  const inputs = [x, up, upBias, down, downBias, residual]
  const record_ = recording(inputs)
  const [hidden, pre] = product(asRows(x), up, {
    transposeB: true,
    bias: upBias,
    activation,
    savePreActivation: record_,
  })
  const [flat] = product(hidden, down, {
    transposeB: true,
    bias: downBias,
    residual: residual ? asRows(residual) : null,
  })
  const out = flat.viewAs([...x.shape.slice(0, -1), down.shape[0]])
  // The hidden layer comes again out of the product that needs the same pre-activations. On a GPU its memory is not scarce
  // enough to give up the library's own epilogue.
  const again = record_ && !x.device.name.startsWith('cuda')
  record('feed_forward', inputs, [out], [x, up, down, again ? null : hidden, pre], ([grad], [input, u, d, h, p], context) => {
    const g = asRows(inFormatOf(grad!, input))
    const [gradPre, repeated] = product(g, d, { gradInput: p, gradActivation: activation, saveActivatedInput: again && context.needs(3) })
    const [dDown, dDownBias] = weightGradients(g, h ?? repeated, context, 3, 4, downBias != null)
    const dx = context.needs(0) ? product(gradPre, u, {})[0].viewAs(input.shape) : null
    const [dUp, dUpBias] = weightGradients(gradPre, input, context, 1, 2, upBias != null)
    return [dx, dUp, dUpBias, dDown, dDownBias, context.needs(5) ? grad : null]
  }, { activation })
  return out
}
