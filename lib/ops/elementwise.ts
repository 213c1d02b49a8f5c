// Elementwise functions of one or two tensors; two tensors broadcast as in NumPy, and a plain number may stand for the
// second. Results have the format of the inputs, comparisons give bool. 16-bit formats are computed in f32.
import { record } from '../autograd/tape'
import { isFloating } from '../native/dtype'
import { isTensor, run1, type Tensor } from '../tensor/tensor'
import { inFormatOf, like, sumTo } from './broadcast'

type UnaryGradient =
  | 'abs' | 'exp' | 'log' | 'sqrt' | 'rsqrt' | 'reciprocal' | 'square' | 'sin' | 'cos' | 'tanh' | 'sigmoid' | 'relu'
  | 'erf' | 'gelu_tanh' | 'gelu_erf' | 'silu'

/** y = f(x) whose gradient kernel reads x or y. */
function unary(op: UnaryGradient, saves: 'x' | 'y'): (x: Tensor) => Tensor {
  return (x) => {
    const y = run1(op, [x], {})
    record(op, [x], [y], [saves === 'x' ? x : y], ([grad], [saved]) => [
      run1(`${op}_backward`, [inFormatOf(grad!, saved), saved], {}),
    ])
    return y
  }
}

/** |x|; the gradient at 0 is 0. */
export const abs = unary('abs', 'x')
/** e^x */
export const exp = unary('exp', 'y')
/** Natural logarithm. */
export const log = unary('log', 'x')
/** Square root. */
export const sqrt = unary('sqrt', 'y')
/** 1 / sqrt(x) */
export const rsqrt = unary('rsqrt', 'y')
/** 1 / x */
export const reciprocal = unary('reciprocal', 'y')
/** x * x */
export const square = unary('square', 'x')
/** Sine of x in radians. */
export const sin = unary('sin', 'x')
/** Cosine of x in radians. */
export const cos = unary('cos', 'x')
/** Hyperbolic tangent. */
export const tanh = unary('tanh', 'y')
/** 1 / (1 + e^-x) */
export const sigmoid = unary('sigmoid', 'y')
/** max(x, 0); the gradient at 0 is 0. */
export const relu = unary('relu', 'y')
/** Error function. */
export const erf = unary('erf', 'x')
/** x sigmoid(x). Elfwing et al., arXiv 1702.03118. */
export const silu = unary('silu', 'x')
const geluTanh = unary('gelu_tanh', 'x')
const geluErf = unary('gelu_erf', 'x')

/**
 * x Phi(x) with the normal distribution function Phi: exactly ('none'), or by its tanh approximation
 * 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). Hendrycks and Gimpel, arXiv 1606.08415.
 */
export function gelu(x: Tensor, approximate: 'tanh' | 'none' = 'tanh'): Tensor {
  return approximate === 'tanh' ? geluTanh(x) : geluErf(x)
}

/** -x */
export function neg(x: Tensor): Tensor {
  const y = run1('neg', [x], {})
  record('neg', [x], [y], [], ([grad]) => [run1('neg', [grad!], {})])
  return y
}

/** -1, 0 or 1. No gradient flows. */
export const sign = (x: Tensor): Tensor => run1('sign', [x], {})
/** The largest whole number not above x. No gradient flows. */
export const floor = (x: Tensor): Tensor => run1('floor', [x], {})

/** factor x + offset, with two numbers: whole ones for integer formats, whose results wrap around. */
export function scale(x: Tensor, factor: number, offset = 0): Tensor {
  const y = run1('scale', [x], { factor, offset })
  record('scale', [x], [y], [], ([grad]) => [run1('scale', [grad!], { factor, offset: 0 })])
  return y
}

export const mulScalar = (x: Tensor, factor: number): Tensor => scale(x, factor)
export const addScalar = (x: Tensor, offset: number): Tensor => scale(x, 1, offset)

/** x + y */
export function add(x: Tensor, y: Tensor | number): Tensor {
  if (!isTensor(y)) return addScalar(x, y)
  const z = run1('add', [x, y], {})
  record('add', [x, y], [z], [], ([grad], _, context) => [
    context.needs(0) ? sumTo(grad!, x.shape) : null,
    context.needs(1) ? sumTo(grad!, y.shape) : null,
  ])
  return z
}

/** x - y */
export function sub(x: Tensor, y: Tensor | number): Tensor {
  if (!isTensor(y)) return addScalar(x, -y)
  const z = run1('sub', [x, y], {})
  record('sub', [x, y], [z], [], ([grad], _, context) => [
    context.needs(0) ? sumTo(grad!, x.shape) : null,
    context.needs(1) ? run1('neg', [sumTo(grad!, y.shape)], {}) : null,
  ])
  return z
}

/** x y */
export function mul(x: Tensor, y: Tensor | number): Tensor {
  if (!isTensor(y)) return mulScalar(x, y)
  const z = run1('mul', [x, y], {})
  record('mul', [x, y], [z], [x, y], ([grad], [a, b], context) => {
    const g = inFormatOf(grad!, a)
    return [
      context.needs(0) ? sumTo(run1('mul', [g, b], {}), a.shape) : null,
      context.needs(1) ? sumTo(run1('mul', [g, a], {}), b.shape) : null,
    ]
  })
  return z
}

/** x / y. Floating formats. */
export function div(x: Tensor, y: Tensor | number): Tensor {
  if (!isTensor(y)) return isFloating(x.dtype) ? mulScalar(x, 1 / y) : run1('div', [x, like(x, y, 'div')], {})
  const z = run1('div', [x, y], {})
  record('div', [x, y], [z], [x, y, z], ([grad], [a, b, out], context) => {
    const perX = run1('div', [inFormatOf(grad!, a), b], {})
    return [
      context.needs(0) ? sumTo(perX, a.shape) : null,
      context.needs(1) ? run1('neg', [sumTo(run1('mul', [perX, out], {}), b.shape)], {}) : null,
    ]
  })
  return z
}

/** x^y. Floating formats. The gradient of y is 0 where x is 0. */
export function pow(x: Tensor, y: Tensor | number): Tensor {
  if (!isTensor(y)) return powScalar(x, y)
  const z = run1('pow', [x, y], {})
  record('pow', [x, y], [z], [x, y, z], ([grad], [a, b, out], context) => {
    const g = inFormatOf(grad!, a)
    let dx: Tensor | null = null
    let dy: Tensor | null = null
    if (context.needs(0)) {
      const slope = run1('mul', [b, run1('pow', [a, run1('scale', [b], { factor: 1, offset: -1 })], {})], {})
      dx = sumTo(run1('mul', [g, slope], {}), a.shape)
    }
    if (context.needs(1)) {
      const atZero = run1('eq', [a, like(a, 0)], {})
      const logarithm = run1('where', [atZero, like(a, 0), run1('log', [a], {})], {})
      dy = sumTo(run1('mul', [g, run1('mul', [out, logarithm], {})], {}), b.shape)
    }
    return [dx, dy]
  })
  return z
}

function powScalar(x: Tensor, y: number): Tensor {
  if (y === 2) return square(x)
  const z = run1('pow', [x, like(x, y, 'pow')], {})
  record('pow', [x], [z], [x], ([grad], [a]) => {
    const slope = run1('scale', [run1('pow', [a, like(a, y - 1)], {})], { factor: y, offset: 0 })
    return [run1('mul', [inFormatOf(grad!, a), slope], {})]
  })
  return z
}

/** The smaller and the larger one; equal ones share the gradient. NaN wins. */
function extremum(op: 'minimum' | 'maximum', wins: 'lt' | 'gt') {
  return (x: Tensor, y: Tensor | number): Tensor => {
    const other = isTensor(y) ? y : like(x, y, op)
    const z = run1(op, [x, other], {})
    record(op, [x, other], [z], [x, other], ([grad], [a, b], context) => {
      const g = inFormatOf(grad!, a)
      const half = run1('scale', [g], { factor: 0.5, offset: 0 })
      const tie = run1('where', [run1('eq', [a, b], {}), half, like(a, 0)], {})
      const share = (first: Tensor, second: Tensor) =>
        sumTo(run1('where', [run1(wins, [first, second], {}), g, tie], {}), first.shape)
      return [context.needs(0) ? share(a, b) : null, context.needs(1) ? share(b, a) : null]
    })
    return z
  }
}

export const minimum = extremum('minimum', 'lt')
export const maximum = extremum('maximum', 'gt')

type Comparison = 'eq' | 'ne' | 'lt' | 'le' | 'gt' | 'ge'
const comparison = (op: Comparison) => (x: Tensor, y: Tensor | number) =>
  run1(op, [x, isTensor(y) ? y : like(x, y, op)], {})

/** Comparisons of numbers of any format; bool results. NaN differs from everything. */
export const equal = comparison('eq')
export const notEqual = comparison('ne')
export const less = comparison('lt')
export const lessEqual = comparison('le')
export const greater = comparison('gt')
export const greaterEqual = comparison('ge')

/** Of bool tensors. */
export const logicalAnd = (x: Tensor, y: Tensor): Tensor => run1('logical_and', [x, y], {})
export const logicalOr = (x: Tensor, y: Tensor): Tensor => run1('logical_or', [x, y], {})
export const logicalNot = (x: Tensor): Tensor => run1('logical_not', [x], {})
