// Fake quantisation: numbers rounded to a grid, computed in floating point, with the gradients that training through it uses.
//   fakeQuantize: y = s (q - z), q = clamp(round(x / s) + z, low, high); dy/dx = 1 where nothing is clamped, else 0.
//   lsq: y = s q, q = round(clamp(x / s, low, high)), with a gradient of the step s too, summed over the numbers it serves:
//        dy/ds = q - x / s inside, low or high beyond; times g = 1 / sqrt(n high), n the numbers of one step.
// Rounding is to even. Steps are [1] for all or [rows, 1]. Whatever the format of x, the grid is computed in f32.
// Sources: Krishnamoorthi, arXiv 1806.08342; Esser et al., arXiv 1902.08153.
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

/** x on a symmetric grid whose step is trained. @returns x's shape and format */
export function lsq(x: Tensor, step: Tensor, grid: Grid): Tensor {
  const y = scope(() => noGrad(() => cast(mul(roundEven(clamp(div(cast(x, 'f32'), step), grid)), step), x.dtype)))
  record('lsq', [x, step], [y], [x, step], ([grad], [input, s], context) =>
    scope(() =>
      noGrad(() => {
        const u = div(cast(input, 'f32'), s)
        const dx = context.needs(0) ? mul(grad!, cast(inside(u, grid), grad!.dtype)) : null
        if (!context.needs(1)) return [dx, null]
        const middle = sub(roundEven(clamp(u, grid)), u)
        const slope = where(below(u, grid.low), grid.low, where(above(u, grid.high), grid.high, middle))
        const each = mul(cast(grad!, 'f32'), slope)
        const perRow = s.size > 1
        const total = perRow ? sum(reshape(each, [s.size, x.size / s.size]), [1]) : sum(each)
        return [dx, reshape(scale(total, 1 / Math.sqrt((x.size / s.size) * grid.high)), s.shape)]
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
