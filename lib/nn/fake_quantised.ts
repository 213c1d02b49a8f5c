// A layer that trains for an integer product: weight and input lie on grids of few bits, as the product will have them.
//   weights: symmetric, one step for each output or in all; s = max |w| / top, or trained (LSQ).
//   inputs:  one step a token, s = max |x| / top; or for all unsigned with a zero point, from a moving average of the least and
//            the largest value (0.01 of a step's extremes at a time); or one trained step (LSQ), with a trained offset (LSQ+), or
//            up to a trained clip (PACT), unsigned where inputs are never below 0; or as they are.
// With inputs on a grid the product is the integer one (ops/int8_matmul.ts), so that training sees exactly what is exported.
// A packed weight (nn/int_weight.ts) takes the place of the grid of weights after export.
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import { cast } from '../ops/cast'
import { concat } from '../ops/concat'
import { ones, zeros } from '../ops/creation'
import { abs, add, div, greater, maximum, minimum, mul, scale, sub } from '../ops/elementwise'
import { quantizeRows } from '../ops/int8_matmul'
import { linear } from '../ops/linear'
import { max, min } from '../ops/reductions'
import { reshape } from '../ops/reshape'
import { slice, writeSlice } from '../ops/slice'
import { where } from '../ops/where'
import type { Device } from '../tensor/device'
import { keep, scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import { fakeQuantize, firstStep, lsq, pact, quantizeTo, signedGrid, type Grid } from './fake_quantize'
import { IntWeight, roundEven } from './int_weight'
import { integerLinear } from './integer_linear'
import type { Linear } from './linear'
import { Module } from './module'
import { Constant, packedLinear } from './packed_weight'
import { Parameter } from './parameter'

export interface FakeQuantisedOptions {
  /** Of weights, 2 to 8. */
  bits: number
  /** Of inputs, 2 to 8; 0: they stay as they are. */
  inputBits: number
  /**
   * Steps from the extremes of the numbers; or trained (lsq), inputs with a trained offset (lsq_plus); or from the extremes of
   * weights and a trained clip of inputs (pact).
   */
  method: 'minmax' | 'lsq' | 'lsq_plus' | 'pact'
  /** One step for each output of a weight, or for all. */
  weights: 'channel' | 'tensor'
  /** One step for each token, or for all. What is trained is for all. */
  inputs: 'token' | 'tensor'
  /** Trained steps and offsets follow the loss (default) or the squared error of their grid. */
  follow?: 'loss' | 'error'
  /** For pact: inputs are never below 0, such as those from ReLU. */
  positive?: boolean
}

/** The share of a step's extremes in the moving average. */
const averaged = 0.01
const unsigned = (bits: number): Grid => ({ low: 0, high: 2 ** bits - 1 })

interface GridInput {
  values: Tensor
  codes: { codes: Tensor; scales: Tensor }
  zeros?: Tensor | null
  offset?: Tensor | null
}

/**
 * A step s = first * factor, of which the factor is trained: from 1, so that rates which suit weights suit it, whatever the
 * size of the step; and never below 1e-3.
 */
export class TrainedStep extends Module<[]> {
  /** f32, [out, 1] or [1]; 0: not known yet. */
  first: Constant
  factor: Parameter

  constructor(first: Tensor) {
    super()
    this.first = new Constant(first)
    // One axis, as of biases: no weight decay.
    this.factor = new Parameter(ones([first.size], { device: first.device }))
  }

  forward(): Tensor {
    const factor = maximum(this.factor.tensor, tensor([1e-3], [1], { device: this.first.tensor.device }))
    return mul(this.first.tensor, reshape(factor, this.first.shape))
  }

  /** Whether the first step is known. */
  known(): Tensor {
    return greater(this.first.tensor, tensor([0], [1], { device: this.first.tensor.device }))
  }

  /** Sets the first step where it is not known. */
  start(first: () => Tensor): void {
    const own = this.first.tensor
    scope(() => noGrad(() => writeSlice(own, where(this.known(), own, first()), [0])))
  }
}

/** An offset b = first + share * span, of which the share is trained, from 0: the span makes rates suit it that suit a step. */
export class TrainedOffset extends Module<[span: Tensor]> {
  /** f32 [1] */
  first: Constant
  share: Parameter

  constructor(device: Device) {
    super()
    this.first = new Constant(zeros([1], { device }))
    this.share = new Parameter(zeros([1], { device }))
  }

  forward(span: Tensor): Tensor {
    return add(this.first.tensor, mul(this.share.tensor, span))
  }

  /** Sets the first offset where `known` is not true. */
  start(known: Tensor, first: Tensor): void {
    scope(() => noGrad(() => writeSlice(this.first.tensor, where(known, this.first.tensor, first), [0])))
  }
}

export class FakeQuantised extends Module<[x: Tensor, residual: Tensor | null, layer: Linear]> {
  weightStep: TrainedStep | null = null
  /** Of inputs, or their clip. */
  inputStep: TrainedStep | null = null
  inputOffset: TrainedOffset | null = null
  /** Of the squared error that trained steps follow. */
  errorWeight = 1
  /** Moving average of [least, largest, 1] from zeros: the last says how much of an average it is. */
  range: Constant | null = null
  /** false: the layer as it was, but extremes are watched. */
  enabled = true
  /** false: the moving average stays. */
  observing = true
  /** [least, largest, 1] of the present step's inputs. */
  private seen: Tensor | null = null

  constructor(
    layer: Linear,
    readonly options: FakeQuantisedOptions,
  ) {
    super()
    const { bits, inputBits, method, weights, inputs } = options
    for (const [name, value] of Object.entries({ bits, inputBits })) {
      if (!Number.isInteger(value) || value > 8 || (value < 2 && !(name === 'inputBits' && value === 0))) {
        throw new LeanformerError('ERR_ARGUMENT', `FakeQuantised: ${name} is ${value}`, 'give a whole number from 2 to 8')
      }
    }
    const { device } = (layer.packed ? layer.packed.parameters()[0] : layer.weight).tensor
    if (this.trainsWeights && !layer.packed) this.weightStep = new TrainedStep(firstStep(layer.weight.tensor, this.weightGrid, weights === 'channel'))
    if (!inputBits) return
    if (method !== 'minmax') this.inputStep = new TrainedStep(zeros([1], { device }))
    else if (inputs === 'tensor') this.range = new Constant(zeros([3], { device }))
    if (method === 'lsq_plus') this.inputOffset = new TrainedOffset(device)
  }

  private get trainsWeights(): boolean {
    return this.options.method === 'lsq' || this.options.method === 'lsq_plus'
  }

  get weightGrid(): Grid {
    return signedGrid(this.options.bits, !this.trainsWeights)
  }

  /** The clip of inputs that is trained by pact. */
  get clip(): Tensor | null {
    return this.options.method === 'pact' && this.inputStep ? this.inputStep.call() : null
  }

  private get error(): { errorWeight?: number } {
    return this.options.follow === 'error' ? { errorWeight: this.errorWeight } : {}
  }

  forward(x: Tensor, residual: Tensor | null, layer: Linear): Tensor {
    const { inputBits } = this.options
    if (!this.enabled) {
      if (inputBits) this.watch(x)
      return layer.product(x, residual)
    }
    if (!inputBits) return this.weightsOnly(x, residual, layer)
    const input = this.input(x)
    const { weight, codes } = this.weight(layer)
    const operands = { x: input.codes, zeros: input.zeros, offset: input.offset, w: codes }
    return integerLinear(input.values, weight, operands, layer.bias?.value ?? null, residual)
  }

  private weightsOnly(x: Tensor, residual: Tensor | null, layer: Linear): Tensor {
    if (layer.packed) return packedLinear(x, layer.packed, layer.bias?.value, residual)
    const bias = layer.bias?.value ?? null
    const w = cast(this.onGrid(layer.weight.tensor), x.dtype)
    return linear(x, w, bias, residual)
  }

  /** The weight on its grid, f32, with gradients of master and step. */
  private onGrid(w: Tensor): Tensor {
    return this.weightStep ? lsq(w, this.weightStep.call(), this.weightGrid, this.error) : fakeQuantize(w, this.stepOf(w), this.weightGrid)
  }

  /** The step of a weight: [out, 1] or [1], f32. */
  stepOf(w: Tensor): Tensor {
    if (this.weightStep) return this.weightStep.call()
    return scope(() =>
      noGrad(() => {
        const largest = max(abs(cast(w, 'f32')), this.options.weights === 'channel' ? [1] : null, { keepdims: true })
        const step = scale(maximum(largest, tensor([1e-30], [1], { device: w.device })), 1 / this.weightGrid.high)
        return this.options.weights === 'channel' ? step : reshape(step, [1])
      }),
    )
  }

  /** A weight's codes and steps as the integer product takes them, and the numbers they stand for. */
  private weight(layer: Linear): { weight: Tensor; codes: { codes: Tensor; scales: Tensor } } {
    const { packed } = layer
    if (packed instanceof IntWeight) return { weight: packed.call('f32'), codes: packed.rows() }
    const w = layer.weight.tensor
    const codes = scope(() => noGrad(() => ({ ...this.codesOf(w) })))
    return { weight: this.onGrid(w), codes }
  }

  /** i8 codes [out, in] and their f32 steps, flat. */
  codesOf(w: Tensor): { codes: Tensor; scales: Tensor } {
    const step = this.stepOf(w)
    return { codes: cast(quantizeTo(w, step, this.weightGrid).codes, 'i8'), scales: reshape(step, [step.size]) }
  }

  private input(x: Tensor): GridInput {
    const { inputBits, inputs, method } = this.options
    if (method === 'pact') return this.clippedInput(x)
    if (method !== 'minmax') return this.trainedInput(x)
    if (inputs === 'tensor') return this.affineInput(x)
    const grid = signedGrid(inputBits)
    const codes = noGrad(() => quantizeRows(x, grid.high))
    const step = codes.scales.viewAs([...codes.scales.shape, 1])
    return { values: fakeQuantize(x, step, grid), codes }
  }

  private trainedInput(x: Tensor): GridInput {
    const grid = signedGrid(this.options.inputBits, false)
    const { inputStep, inputOffset } = this
    if (inputOffset) {
      // At first the grid has the extremes for its ends.
      const ends = noGrad(() => extremes(x))
      const step = noGrad(() => maximum(scale(sub(ends.most, ends.least), 1 / (grid.high - grid.low)), tensor([1e-8], [1], { device: x.device })))
      inputOffset.start(noGrad(() => inputStep!.known()), noGrad(() => sub(ends.least, scale(step, grid.low))))
      inputStep!.start(() => step)
    } else inputStep!.start(() => firstStep(reshape(x, [1, x.size]), grid, false))
    const own = inputStep!.call()
    const offset = inputOffset ? inputOffset.call(noGrad(() => scale(inputStep!.first.tensor, grid.high))) : null
    const codes = scope(() =>
      noGrad(() => {
        const from = offset ? sub(cast(x, 'f32'), offset) : x
        return { codes: cast(quantizeTo(from, own, grid).codes, 'i8'), scales: reshape(own, [1]) }
      }),
    )
    return { values: lsq(x, own, grid, { offset, ...this.error }), codes, offset }
  }

  private clippedInput(x: Tensor): GridInput {
    const { inputBits, positive } = this.options
    const grid = positive ? unsigned(inputBits) : signedGrid(inputBits)
    this.inputStep!.start(() => maximum(reshape(max(abs(cast(x, 'f32'))), [1]), tensor([1e-8], [1], { device: x.device })))
    const clip = this.clip!
    // Unsigned codes do not fit in i8: they and their zero point move down by half of the range.
    const half = positive ? (grid.high + 1) / 2 : 0
    const { codes, zeros } = scope(() =>
      noGrad(() => {
        const step = scale(clip, 1 / grid.high)
        const found = { codes: cast(scale(quantizeTo(x, step, grid).codes, 1, -half), 'i8'), scales: step }
        return { codes: found, zeros: positive ? tensor([-half], [1], { dtype: 'i32', device: x.device }) : null }
      }),
    )
    return { values: pact(x, clip, grid), codes, zeros }
  }

  private affineInput(x: Tensor): GridInput {
    const grid = unsigned(this.options.inputBits)
    const { step, zero, codes, zeros: shifted } = scope(() =>
      noGrad(() => {
        const now = this.watch(x)
        const { step, zero } = affineStep(this.range!.tensor, now, grid)
        // Unsigned codes do not fit in i8: both they and their zero point move down by half of the range.
        const half = (grid.high + 1) / 2
        const codes = cast(scale(quantizeTo(x, step, grid, zero).codes, 1, -half), 'i8')
        return { step, zero, codes, zeros: cast(scale(zero, 1, -half), 'i32') }
      }),
    )
    return { values: fakeQuantize(x, step, grid, zero), codes: { codes, scales: step }, zeros: shifted }
  }

  /** [least, largest, 1] of x, remembered for fold(). */
  private watch(x: Tensor): Tensor {
    return noGrad(() => {
      const { least, most } = extremes(x)
      const now = concat([least, most, ones([1], { device: x.device })])
      if (this.training && this.range && this.observing) {
        const merged = this.seen ? scope(() => merge(this.seen!, now)) : now
        this.seen?.dispose()
        this.seen = keep(merged.detach())
      }
      return now
    })
  }

  /** At the end of a step: its extremes go into the moving average. */
  fold(): void {
    const { seen, range } = this
    if (!seen || !range) return
    scope(() => noGrad(() => writeSlice(range.tensor, add(scale(range.tensor, 1 - averaged), scale(seen, averaged)), [0])))
    seen.dispose()
    this.seen = null
  }

  override dispose(): void {
    super.dispose()
    this.seen?.dispose()
  }
}

/** The least and the largest number, f32 [1] each. */
function extremes(x: Tensor): { least: Tensor; most: Tensor } {
  const wide = cast(x, 'f32')
  return { least: reshape(min(wide), [1]), most: reshape(max(wide), [1]) }
}

const item = (x: Tensor, i: number) => slice(x, [i], [i + 1])
const merge = (a: Tensor, b: Tensor) => concat([minimum(item(a, 0), item(b, 0)), maximum(item(a, 1), item(b, 1)), item(a, 2)])

/** Step and zero point [1] of a moving average, or of the present extremes where there is none yet. 0 lies on the grid. */
function affineStep(range: Tensor, now: Tensor, { high }: Grid): { step: Tensor; zero: Tensor } {
  const none = tensor([0], [1], { device: range.device })
  const weight = item(range, 2)
  const ends = [0, 1].map((i) => where(greater(weight, none), div(item(range, i), maximum(weight, tensor([1e-30], [1], { device: range.device }))), item(now, i)))
  const [least, most] = [minimum(ends[0], none), maximum(ends[1], none)]
  const step = maximum(scale(sub(most, least), 1 / high), tensor([1e-30], [1], { device: range.device }))
  return { step, zero: roundEven(scale(div(least, step), -1)) }
}

/** Puts the weights of trained layers in few bits, on the grids they were trained with. Inputs keep theirs. */
export function exportQuantised(layers: Iterable<Linear>): void {
  for (const layer of layers) {
    const { adapter } = layer
    if (!(adapter instanceof FakeQuantised) || layer.packed) continue
    const { codes, scales } = scope(() => noGrad(() => ({ ...adapter.codesOf(layer.weight.tensor) })))
    const even = layer.shape[1] % 2 === 0
    layer.pack(new IntWeight(codes, { bits: adapter.options.bits <= 4 && even ? 4 : 8, scales }))
    adapter.weightStep?.dispose()
    adapter.weightStep = null
    if (adapter.options.inputBits) continue
    adapter.dispose()
    layer.adapter = null
  }
}
