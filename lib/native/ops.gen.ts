// Generated from the addon by `npm run generate:ops`; do not edit. One entry per native operator, sorted by name.
import { dtypes, type DType } from './dtype'

export interface OpAttrs {
  abs: Record<string, never>
  abs_backward: Record<string, never>
  accumulate: Record<string, never>
  add: Record<string, never>
  broadcast_to: { shape: readonly number[] }
  cast: { dtype: DType }
  copy: Record<string, never>
  cos: Record<string, never>
  cos_backward: Record<string, never>
  div: Record<string, never>
  eq: Record<string, never>
  erf: Record<string, never>
  erf_backward: Record<string, never>
  exp: Record<string, never>
  exp_backward: Record<string, never>
  fill: { shape: readonly number[]; value: number; dtype: DType }
  floor: Record<string, never>
  ge: Record<string, never>
  gelu_erf: Record<string, never>
  gelu_erf_backward: Record<string, never>
  gelu_tanh: Record<string, never>
  gelu_tanh_backward: Record<string, never>
  gt: Record<string, never>
  le: Record<string, never>
  log: Record<string, never>
  log_backward: Record<string, never>
  logical_and: Record<string, never>
  logical_not: Record<string, never>
  logical_or: Record<string, never>
  lt: Record<string, never>
  matmul: { transpose_a: boolean; transpose_b: boolean; activation: 'none' | 'gelu' | 'gelu_exact' | 'silu' | 'relu'; grad_activation: 'none' | 'gelu' | 'gelu_exact' | 'silu' | 'relu'; save_pre_activation: boolean; row_sums: boolean; out_dtype: DType }
  max: { axes: readonly number[]; keepdims: boolean }
  maximum: Record<string, never>
  mean: { axes: readonly number[]; keepdims: boolean }
  min: { axes: readonly number[]; keepdims: boolean }
  minimum: Record<string, never>
  mul: Record<string, never>
  ne: Record<string, never>
  neg: Record<string, never>
  pow: Record<string, never>
  prod: { axes: readonly number[]; keepdims: boolean }
  reciprocal: Record<string, never>
  reciprocal_backward: Record<string, never>
  relu: Record<string, never>
  relu_backward: Record<string, never>
  rsqrt: Record<string, never>
  rsqrt_backward: Record<string, never>
  scale: { factor: number; offset: number }
  sigmoid: Record<string, never>
  sigmoid_backward: Record<string, never>
  sign: Record<string, never>
  silu: Record<string, never>
  silu_backward: Record<string, never>
  sin: Record<string, never>
  sin_backward: Record<string, never>
  sqrt: Record<string, never>
  sqrt_backward: Record<string, never>
  square: Record<string, never>
  square_backward: Record<string, never>
  sub: Record<string, never>
  sum: { axes: readonly number[]; keepdims: boolean }
  swiglu: Record<string, never>
  swiglu_backward: Record<string, never>
  tanh: Record<string, never>
  tanh_backward: Record<string, never>
  where: Record<string, never>
}

export type OpName = keyof OpAttrs

export interface OpDescription {
  name: OpName
  inputs: { name: string; optional: boolean; variadic: boolean; mutated: boolean }[]
  attrs: { name: string; type: string; choices?: readonly string[] }[]
}

const input = (name: string, flags = '') => ({
  name,
  optional: flags.includes('?'),
  variadic: flags.includes('*'),
  mutated: flags.includes('!'),
})

export const opTable: OpDescription[] = [
  {
    name: 'abs',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'abs_backward',
    inputs: [input('grad'), input('x')],
    attrs: [],
  },
  {
    name: 'accumulate',
    inputs: [input('target', '!'), input('x')],
    attrs: [],
  },
  {
    name: 'add',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'broadcast_to',
    inputs: [input('x')],
    attrs: [{ name: 'shape', type: 'integers' }],
  },
  {
    name: 'cast',
    inputs: [input('x')],
    attrs: [{ name: 'dtype', type: 'choice', choices: dtypes }],
  },
  {
    name: 'copy',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'cos',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'cos_backward',
    inputs: [input('grad'), input('x')],
    attrs: [],
  },
  {
    name: 'div',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'eq',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'erf',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'erf_backward',
    inputs: [input('grad'), input('x')],
    attrs: [],
  },
  {
    name: 'exp',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'exp_backward',
    inputs: [input('grad'), input('y')],
    attrs: [],
  },
  {
    name: 'fill',
    inputs: [],
    attrs: [{ name: 'shape', type: 'integers' }, { name: 'value', type: 'number' }, { name: 'dtype', type: 'choice', choices: dtypes }],
  },
  {
    name: 'floor',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'ge',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'gelu_erf',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'gelu_erf_backward',
    inputs: [input('grad'), input('x')],
    attrs: [],
  },
  {
    name: 'gelu_tanh',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'gelu_tanh_backward',
    inputs: [input('grad'), input('x')],
    attrs: [],
  },
  {
    name: 'gt',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'le',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'log',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'log_backward',
    inputs: [input('grad'), input('x')],
    attrs: [],
  },
  {
    name: 'logical_and',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'logical_not',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'logical_or',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'lt',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'matmul',
    inputs: [input('a'), input('b'), input('bias', '?'), input('residual', '?'), input('grad_input', '?'), input('into', '?!'), input('row_sums_into', '?!')],
    attrs: [{ name: 'transpose_a', type: 'flag' }, { name: 'transpose_b', type: 'flag' }, { name: 'activation', type: 'choice', choices: ['none', 'gelu', 'gelu_exact', 'silu', 'relu'] }, { name: 'grad_activation', type: 'choice', choices: ['none', 'gelu', 'gelu_exact', 'silu', 'relu'] }, { name: 'save_pre_activation', type: 'flag' }, { name: 'row_sums', type: 'flag' }, { name: 'out_dtype', type: 'choice', choices: dtypes }],
  },
  {
    name: 'max',
    inputs: [input('x')],
    attrs: [{ name: 'axes', type: 'integers' }, { name: 'keepdims', type: 'flag' }],
  },
  {
    name: 'maximum',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'mean',
    inputs: [input('x')],
    attrs: [{ name: 'axes', type: 'integers' }, { name: 'keepdims', type: 'flag' }],
  },
  {
    name: 'min',
    inputs: [input('x')],
    attrs: [{ name: 'axes', type: 'integers' }, { name: 'keepdims', type: 'flag' }],
  },
  {
    name: 'minimum',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'mul',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'ne',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'neg',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'pow',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'prod',
    inputs: [input('x')],
    attrs: [{ name: 'axes', type: 'integers' }, { name: 'keepdims', type: 'flag' }],
  },
  {
    name: 'reciprocal',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'reciprocal_backward',
    inputs: [input('grad'), input('y')],
    attrs: [],
  },
  {
    name: 'relu',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'relu_backward',
    inputs: [input('grad'), input('y')],
    attrs: [],
  },
  {
    name: 'rsqrt',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'rsqrt_backward',
    inputs: [input('grad'), input('y')],
    attrs: [],
  },
  {
    name: 'scale',
    inputs: [input('x')],
    attrs: [{ name: 'factor', type: 'number' }, { name: 'offset', type: 'number' }],
  },
  {
    name: 'sigmoid',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'sigmoid_backward',
    inputs: [input('grad'), input('y')],
    attrs: [],
  },
  {
    name: 'sign',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'silu',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'silu_backward',
    inputs: [input('grad'), input('x')],
    attrs: [],
  },
  {
    name: 'sin',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'sin_backward',
    inputs: [input('grad'), input('x')],
    attrs: [],
  },
  {
    name: 'sqrt',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'sqrt_backward',
    inputs: [input('grad'), input('y')],
    attrs: [],
  },
  {
    name: 'square',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'square_backward',
    inputs: [input('grad'), input('x')],
    attrs: [],
  },
  {
    name: 'sub',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'sum',
    inputs: [input('x')],
    attrs: [{ name: 'axes', type: 'integers' }, { name: 'keepdims', type: 'flag' }],
  },
  {
    name: 'swiglu',
    inputs: [input('a'), input('b', '?')],
    attrs: [],
  },
  {
    name: 'swiglu_backward',
    inputs: [input('grad'), input('a'), input('b', '?')],
    attrs: [],
  },
  {
    name: 'tanh',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'tanh_backward',
    inputs: [input('grad'), input('y')],
    attrs: [],
  },
  {
    name: 'where',
    inputs: [input('condition'), input('x'), input('y')],
    attrs: [],
  },
]
