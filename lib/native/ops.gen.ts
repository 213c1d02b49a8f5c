// Generated from the addon by `npm run generate:ops`; do not edit. One entry per native operator, sorted by name.
import { dtypes, type DType } from './dtype'

export interface OpAttrs {
  copy: Record<string, never>
  fill: { shape: readonly number[]; value: number; dtype: DType }
  matmul: { transpose_a: boolean; transpose_b: boolean; activation: 'none' | 'gelu' | 'gelu_exact' | 'silu' | 'relu'; grad_activation: 'none' | 'gelu' | 'gelu_exact' | 'silu' | 'relu'; save_pre_activation: boolean; row_sums: boolean; out_dtype: DType }
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
    name: 'copy',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'fill',
    inputs: [],
    attrs: [{ name: 'shape', type: 'integers' }, { name: 'value', type: 'number' }, { name: 'dtype', type: 'choice', choices: dtypes }],
  },
  {
    name: 'matmul',
    inputs: [input('a'), input('b'), input('bias', '?'), input('residual', '?'), input('grad_input', '?'), input('into', '?!'), input('row_sums_into', '?!')],
    attrs: [{ name: 'transpose_a', type: 'flag' }, { name: 'transpose_b', type: 'flag' }, { name: 'activation', type: 'choice', choices: ['none', 'gelu', 'gelu_exact', 'silu', 'relu'] }, { name: 'grad_activation', type: 'choice', choices: ['none', 'gelu', 'gelu_exact', 'silu', 'relu'] }, { name: 'save_pre_activation', type: 'flag' }, { name: 'row_sums', type: 'flag' }, { name: 'out_dtype', type: 'choice', choices: dtypes }],
  },
]
