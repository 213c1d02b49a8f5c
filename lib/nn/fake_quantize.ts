// Fake quantisation: numbers rounded to a grid, computed in floating point, with the gradients that training through it uses.
//   fakeQuantize: y = s (q - z), q = clamp(round(x / s) + z, low, high); dy/dx = 1 where nothing is clamped, else 0.
//   lsq: y = s q, q = round(clamp(x / s, low, high)), with a gradient of the step s too, summed over the numbers it serves:
//        dy/ds = q - x / s inside, low or high beyond; times g = 1 / sqrt(n high), n the numbers of one step.
//        With a trained offset b (LSQ+): y = s q + b, q = round(clamp((x - b) / s, low, high)), dy/db = 0 inside, 1 beyond, times g.
//        Or step and offset follow the error of the grid instead of the loss: the gradient of mean (y - x)^2, which is
//        2 mean (y - x) q and 2 mean (y - x). (MKQ-BERT announces a gradient of the step of its own, of which no code is public:
//        this is what we take it to be.)
//   pact: y = s q, s = c / high, q = round(clamp(x / s, low, high)); the gradient of the clip c is 1 where
//        x >= c, -1 where x <= -c on a grid of both signs, else 0; that of x is 1 between, else 0.
// Rounding is to even. Steps are [1] for all or [rows, 1]. Whatever the format of x, the grid is computed in f32.
// Sources: Krishnamoorthi, arXiv 1806.08342; LSQ: Esser et al., arXiv 1902.08153; LSQ+: Bhalgat et al., arXiv 2004.09576;
// PACT: Choi et al., arXiv 1805.06085; MKQ-BERT: Tang et al., arXiv 2203.13483.
import { noGrad, record } from '../autograd/tape'
import { cast } from '../ops/cast'
import { abs, add, div, greater, logicalNot, maximum, mul, scale, sub } from '../ops/elementwise'
import { sum } from '../ops/reductions'
import { reshape } from '../ops/reshape'
import { where } from '../ops/where'
import { scope } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import { clamp as clampTo, roundEven } from './int_weight'

/** The ends of a grid, in steps. */
export interface Grid {
  low: number
  high: number
}

/** Whole numbers of so many bits: symmetric, or down to -2^(bits - 1). */
export function signedGrid(bits: number, symmetric = true): Grid {
  const high = 2 ** (bits - 1) - 1
  return { low: symmetric ? -high : -high - 1, high }
}

const constant = (value: number, like: Tensor) => tensor([value], [1], { device: like.device })
const clamp = (x: Tensor, { low, high }: Grid) => clampTo(x, low, high)
const above = (x: Tensor, value: number) => greater(x, constant(value, x))
const below = (x: Tensor, value: number) => greater(constant(value, x), x)
const inside = (x: Tensor, { low, high }: Grid) => logicalNot(above(maximum(sub(x, constant(high, x)), sub(constant(low, x), x)), 0))

/** round(x / s) + z before it is clamped; f32. */
const places = (x: Tensor, step: Tensor, zero: Tensor | null) => {
  const rounded = roundEven(clamp(div(cast(x, 'f32'), step), { low: -(2 ** 21), high: 2 ** 21 }))
  return zero ? add(rounded, zero) : rounded
}

/** Codes of x: f32 whole numbers from grid.low to grid.high, and what they stand for. */
export function quantizeTo(x: Tensor, step: Tensor, grid: Grid, zero: Tensor | null = null): { codes: Tensor; values: Tensor } {
  const codes = clamp(places(x, step, zero), grid)
  return { codes, values: mul(zero ? sub(codes, zero) : codes, step) }
}

/** x on a grid, with the straight-through gradient of x alone. `step` and `zero` (whole numbers) are f32. */
export function fakeQuantize(x: Tensor, step: Tensor, grid: Grid, zero: Tensor | null = null): Tensor {
  const y = scope(() => noGrad(() => cast(quantizeTo(x, step, grid, zero).values, x.dtype)))
  record('fake_quantize', [x], [y], [x, step, zero], ([grad], [input, s, z]) =>
    scope(() => noGrad(() => [mul(grad!, cast(inside(places(input, s, z ?? null), grid), grad!.dtype))])),
  )
  return y
}

export interface LsqOptions {
  /** f32, of the shape of the step: what code 0 stands for. Default: 0, and not trained. */
  offset?: Tensor | null
  /** The gradients of step and offset are those of the mean squared error of the grid times this, not those of the loss. */
  errorWeight?: number
}

/** x on a grid whose step, and with LSQ+ whose offset, is trained. @returns x's shape and format */
export function lsq(x: Tensor, step: Tensor, grid: Grid, { offset = null, errorWeight }: LsqOptions = {}): Tensor {
  const place = (input: Tensor, s: Tensor, b: Tensor | null) => div(b ? sub(cast(input, 'f32'), b) : cast(input, 'f32'), s)
  const y = scope(() =>
    noGrad(() => {
      const onGrid = mul(roundEven(clamp(place(x, step, offset), grid)), step)
      return cast(offset ? add(onGrid, offset) : onGrid, x.dtype)
    }),
  )
  record('lsq', [x, step, offset], [y], [x, step, offset], ([grad], [input, s, b], context) =>
    scope(() =>
      noGrad(() => {
        const u = place(input, s, b ?? null)
        const dx = context.needs(0) ? mul(grad!, cast(inside(u, grid), grad!.dtype)) : null
        const perStep = x.size / s.size
        const summed = (each: Tensor, factor: number) => {
          const total = s.size > 1 ? sum(reshape(each, [s.size, perStep]), [1]) : sum(each)
          return reshape(scale(total, factor), s.shape)
        }
        const code = roundEven(clamp(u, grid))
        const error = sub(code, u)
        if (errorWeight !== undefined) {
          const off = mul(error, s)
          const factor = (2 * errorWeight) / perStep
          return [dx, context.needs(1) ? summed(mul(off, code), factor) : null, b && context.needs(2) ? summed(off, factor) : null]
        }
        const g = 1 / Math.sqrt(perStep * grid.high)
        const upstream = cast(grad!, 'f32')
        const slope = () => where(below(u, grid.low), grid.low, where(above(u, grid.high), grid.high, error))
        const beyond = () => cast(logicalNot(inside(u, grid)), 'f32')
        return [dx, context.needs(1) ? summed(mul(upstream, slope()), g) : null, b && context.needs(2) ? summed(mul(upstream, beyond()), g) : null]
      }),
    ),
  )
  return y
}

/** x on a grid that ends at a trained clip [1], f32. From grid.low 0 on: for x that is never below 0. @returns x's shape and format */
export function pact(x: Tensor, clip: Tensor, grid: Grid): Tensor {
  const y = scope(() => noGrad(() => cast(quantizeTo(x, scale(clip, 1 / grid.high), grid).values, x.dtype)))
  record('pact', [x, clip], [y], [x, clip], ([grad], [input, c], context) =>
    scope(() =>
      noGrad(() => {
        const wide = cast(input, 'f32')
        const reached = cast(logicalNot(greater(c, wide)), 'f32')
        const lower = cast(grid.low < 0 ? logicalNot(greater(wide, scale(c, -1))) : below(wide, 0), 'f32')
        const dx = context.needs(0) ? mul(grad!, cast(scale(add(reached, lower), -1, 1), grad!.dtype)) : null
        const sides = grid.low < 0 ? sub(reached, lower) : reached
        return [dx, context.needs(1) ? reshape(sum(mul(cast(grad!, 'f32'), sides)), c.shape) : null]
      }),
    ),
  )
  return y
}

/** A first step, 2 mean |x| / sqrt(high), in all or for each row of x [rows, n]. */
export function firstStep(x: Tensor, { high }: Grid, perRow: boolean): Tensor {
  return scope(() =>
    noGrad(() => {
      const sizes = abs(cast(x, 'f32'))
      const [rows] = x.shape
      const total = perRow ? reshape(sum(sizes, [1]), [rows, 1]) : reshape(sum(sizes), [1])
      return maximum(scale(total, (2 * total.size) / (x.size * Math.sqrt(high))), constant(1e-8, x))
    }),
  )
}
