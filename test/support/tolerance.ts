// How far a result may be from the float64 reference: twice the error of the plain formula carried out in the tested
// precision, plus one unit in the last place of the result.
//
// The reference is run twice: exactly, and with a rounding function r that it applies after each step of the plain
// formula. r rounds to f32 for f32, f16 and bf16 (16-bit formats are computed in f32 by rule) and not at all for f64;
// r.store rounds to the tested dtype, for what an operator keeps in memory on the way. The result is rounded once more to
// its own dtype. The plain formula's error is taken over the whole output, as one element's may be zero by luck:
//   per 'element'  error relative to the element  (pointwise functions)
//   per 'tensor'   error relative to the largest  (sums, where terms cancel)
// f64 is compared with float64 itself: 1e-12 of the largest element. Integers and bool must be equal.
import { isFloating, type DType } from '../../lib/native/dtype'
import { bf16ToNumber, f16ToNumber, numberToBf16, numberToF16 } from '../../lib/tensor/half'

export interface Rounding {
  (x: number): number
  store(x: number): number
  /** The tested dtype. */
  dtype: DType
}

export type ErrorScale = 'element' | 'tensor'

// Distance from 1 to the next number, and the smallest positive one.
const epsilon: Partial<Record<DType, number>> = { f32: 2 ** -23, f16: 2 ** -10, bf16: 2 ** -7, f64: 2 ** -52 }
const smallest: Partial<Record<DType, number>> = { f32: 2 ** -126, f16: 2 ** -24, bf16: 2 ** -126, f64: 2 ** -1022 }

export function epsilonOf(dtype: DType): number {
  return epsilon[dtype] ?? 0
}

export function roundTo(dtype: DType, x: number): number {
  if (dtype === 'f32') return Math.fround(x)
  if (dtype === 'bf16') return bf16ToNumber(numberToBf16(x))
  if (dtype === 'f16') return f16ToNumber(numberToF16(x))
  if (dtype === 'bool') return x ? 1 : 0
  if (dtype === 'u8') return Math.trunc(x) & 255
  return dtype === 'f64' ? x : Math.trunc(x)
}

export const exact = (dtype: DType): Rounding => Object.assign((x: number) => x, { store: (x: number) => x, dtype })

export function rounded(dtype: DType): Rounding {
  const compute = dtype === 'f16' || dtype === 'bf16' || dtype === 'f32' ? Math.fround : (x: number) => x
  return Object.assign((x: number) => compute(x), { store: (x: number) => roundTo(dtype, x), dtype })
}

const largest = (values: Float64Array) => values.reduce((m, x) => (Number.isFinite(x) ? Math.max(m, Math.abs(x)) : m), 0)

/** Throws, naming the worst element, unless every element of `actual` is close enough to `wanted`. */
export function expectClose(
  what: string,
  dtype: DType,
  actual: Float64Array,
  wanted: Float64Array,
  plain: Float64Array,
  scale: ErrorScale,
): void {
  if (actual.length !== wanted.length) throw new Error(`${what}: ${actual.length} elements, expected ${wanted.length}`)
  const biggest = largest(wanted)
  let plainError = 0
  for (let i = 0; i < wanted.length; ++i) {
    const unit = scale === 'tensor' ? biggest : Math.abs(wanted[i])
    const error = Math.abs(roundTo(dtype, plain[i]) - wanted[i]) / unit
    if (Number.isFinite(error)) plainError = Math.max(plainError, error)
  }
  let worst = -1
  let worstRatio = 1
  for (let i = 0; i < wanted.length; ++i) {
    const target = roundTo(dtype, wanted[i])
    if (Object.is(actual[i], target) || actual[i] === target) continue
    const unit = scale === 'tensor' ? biggest : Math.abs(wanted[i])
    let allowed = 0
    if (dtype === 'f64') allowed = 1e-12 * biggest
    else if (isFloating(dtype)) allowed = 2 * plainError * unit + epsilon[dtype]! * Math.abs(wanted[i]) + smallest[dtype]!
    const error = Math.abs(actual[i] - wanted[i])
    const ratio = Number.isFinite(target) && Number.isFinite(error) ? error / allowed : Infinity
    if (ratio > worstRatio) [worst, worstRatio] = [i, ratio]
  }
  if (worst >= 0) {
    throw new Error(
      `${what}: element ${worst} is ${actual[worst]}, expected ${wanted[worst]}; ` +
        `the error is ${worstRatio.toPrecision(3)} times what is allowed`,
    )
  }
}

/** Throws unless no element is further from `wanted` than `relative` times the largest element. */
export function expectNear(what: string, actual: Float64Array, wanted: Float64Array, relative: number, floor = 0): void {
  if (actual.length !== wanted.length) throw new Error(`${what}: ${actual.length} elements, expected ${wanted.length}`)
  const allowed = relative * Math.max(largest(wanted), floor)
  for (let i = 0; i < wanted.length; ++i) {
    if (actual[i] === wanted[i] || Math.abs(actual[i] - wanted[i]) <= allowed) continue
    if (Number.isNaN(actual[i]) && Number.isNaN(wanted[i])) continue
    throw new Error(`${what}: element ${i} is ${actual[i]}, expected ${wanted[i]}, allowed error ${allowed}`)
  }
}
