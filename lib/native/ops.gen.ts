// Generated from the addon by `npm run generate:ops`; do not edit. One entry per native operator, sorted by name.
import { dtypes, type DType } from './dtype'

export interface OpAttrs {
  abs: Record<string, never>
  abs_backward: Record<string, never>
  accumulate: Record<string, never>
  adam: { count: number; lr: number; beta1: number; beta2: number; eps: number; l2: number; weight_decay: number; step: number }
  adamw: { count: number; lr: number; beta1: number; beta2: number; eps: number; weight_decay: number; step: number }
  adamw_8bit: { count: number; lr: number; beta1: number; beta2: number; eps: number; weight_decay: number; block: number; step: number }
  add: Record<string, never>
  amsgrad: { count: number; lr: number; beta1: number; beta2: number; eps: number; l2: number; weight_decay: number; step: number }
  argmax: { axes: readonly number[]; keepdims: boolean }
  argmin: { axes: readonly number[]; keepdims: boolean }
  attention: { heads: number; kv_heads: number; causal: boolean; window: number; scale: number; dropout: number; seed: number; offset: number; kv_length: number }
  attention_backward: { heads: number; kv_heads: number; causal: boolean; window: number; scale: number; dropout: number; seed: number; offset: number; kv_length: number }
  block_sparse_attention: { heads: number; kv_heads: number; block: number; scale: number }
  block_sparse_attention_backward: { heads: number; kv_heads: number; block: number; scale: number }
  broadcast_to: { shape: readonly number[] }
  cast: { dtype: DType }
  concat: { axis: number }
  copy: Record<string, never>
  cos: Record<string, never>
  cos_backward: Record<string, never>
  cross_entropy: { ignore_index: number; label_smoothing: number }
  cross_entropy_backward: { ignore_index: number; label_smoothing: number }
  csr_attention: { heads: number; kv_heads: number; causal: boolean; scale: number; entries: readonly number[]; layout: number; block: number }
  csr_attention_backward: { heads: number; kv_heads: number; causal: boolean; scale: number; entries: readonly number[]; layout: number; block: number }
  cumsum: { axis: number; reverse: boolean }
  dequantize_blocks: { block: number; with_sign: boolean }
  dequantize_nibbles: { book: readonly number[]; block: number; shape: readonly number[]; dtype: DType }
  div: Record<string, never>
  dropout: { p: number; seed: number; offset: number }
  embedding: { offset: number }
  embedding_backward: { rows: number; offset: number }
  eq: Record<string, never>
  erf: Record<string, never>
  erf_backward: Record<string, never>
  exp: Record<string, never>
  exp_backward: Record<string, never>
  feature_attention: { causal: boolean; map: 'none' | 'elu' | 'exp'; eps: number }
  feature_attention_backward: { causal: boolean; map: 'none' | 'elu' | 'exp'; eps: number }
  fill: { shape: readonly number[]; value: number; dtype: DType }
  flip: { axes: readonly number[] }
  floor: Record<string, never>
  fold: { kernel: readonly number[]; stride: readonly number[]; padding: readonly number[]; dilation: readonly number[]; size: readonly number[] }
  fp8_matmul: { format_a: 'e4m3' | 'e5m2'; format_b: 'e4m3' | 'e5m2' }
  from_fp8: { format: 'e4m3' | 'e5m2'; dtype: DType }
  gather: { axis: number }
  ge: Record<string, never>
  gelu_erf: Record<string, never>
  gelu_erf_backward: Record<string, never>
  gelu_tanh: Record<string, never>
  gelu_tanh_backward: Record<string, never>
  grad_norm_clip: { max_norm: number; unscale: number }
  gt: Record<string, never>
  index_add: { axis: number; shape: readonly number[] }
  index_select: { axis: number }
  int8_matmul: { out_dtype: DType }
  lamb: { count: number; lr: number; beta1: number; beta2: number; eps: number; weight_decay: number; max_trust: number; adapt: boolean; step: number }
  lars: { count: number; lr: number; momentum: number; trust: number; weight_decay: number; clip_rate: boolean; adapt: boolean }
  layer_norm: { eps: number }
  layer_norm_backward: Record<string, never>
  le: Record<string, never>
  lerp: { count: number; rate: number }
  lerp_square: { count: number; rate: number }
  linear_cross_entropy: { ignore_index: number; label_smoothing: number; scale: number; with_gradients: boolean }
  lion: { count: number; lr: number; beta1: number; beta2: number; weight_decay: number }
  log: Record<string, never>
  log_backward: Record<string, never>
  log_softmax: { axis: number }
  log_softmax_backward: { axis: number }
  log_sum_exp: { axes: readonly number[]; keepdims: boolean }
  logical_and: Record<string, never>
  logical_not: Record<string, never>
  logical_or: Record<string, never>
  lt: Record<string, never>
  matmul: { transpose_a: boolean; transpose_b: boolean; activation: 'none' | 'gelu' | 'gelu_exact' | 'silu' | 'relu'; grad_activation: 'none' | 'gelu' | 'gelu_exact' | 'silu' | 'relu'; save_pre_activation: boolean; save_activated_input: boolean; row_sums: boolean; out_dtype: DType }
  max: { axes: readonly number[]; keepdims: boolean }
  maximum: Record<string, never>
  mean: { axes: readonly number[]; keepdims: boolean }
  min: { axes: readonly number[]; keepdims: boolean }
  minimum: Record<string, never>
  mul: Record<string, never>
  ne: Record<string, never>
  neg: Record<string, never>
  nesterov: { count: number; lr: number; momentum: number; l2: number }
  one_hot: { classes: number; dtype: DType }
  permute: { axes: readonly number[] }
  pow: Record<string, never>
  prod: { axes: readonly number[]; keepdims: boolean }
  quantize_blocks: { block: number; with_sign: boolean }
  quantize_rows: { top: number }
  random_normal: { shape: readonly number[]; seed: number; offset: number; dtype: DType }
  random_uniform: { shape: readonly number[]; seed: number; offset: number; dtype: DType }
  reciprocal: Record<string, never>
  reciprocal_backward: Record<string, never>
  relu: Record<string, never>
  relu_backward: Record<string, never>
  rms_norm: { eps: number }
  rms_norm_backward: Record<string, never>
  rotary: { heads: number; kv_heads: number; base: number; interleaved: boolean; offset: number; inverse: boolean }
  rsqrt: Record<string, never>
  rsqrt_backward: Record<string, never>
  sam_ascend: { count: number; rho: number; eta: number; scaled: readonly number[] }
  sam_restore: { count: number }
  scale: { factor: number; offset: number }
  scaled_add: { count: number; decay: number; factor: number }
  scatter_add: { axis: number; shape: readonly number[] }
  schedule_free_adamw: { count: number; lr: number; beta1: number; beta2: number; eps: number; weight_decay: number; average: number; step: number }
  sgd: { count: number; lr: number; momentum: number; dampening: number; nesterov: boolean; weight_decay: number; first: boolean }
  sigmoid: Record<string, never>
  sigmoid_backward: Record<string, never>
  sign: Record<string, never>
  silu: Record<string, never>
  silu_backward: Record<string, never>
  sin: Record<string, never>
  sin_backward: Record<string, never>
  slice: { start: readonly number[]; stop: readonly number[]; step: readonly number[] }
  slice_backward: { start: readonly number[]; stop: readonly number[]; step: readonly number[]; shape: readonly number[] }
  softmax: { axis: number }
  softmax_backward: { axis: number }
  sophia: { count: number; lr: number; beta1: number; scale: number; weight_decay: number }
  sort: { axis: number; descending: boolean }
  sparse_linear: { out: number; rows: number; columns: number }
  sqrt: Record<string, never>
  sqrt_backward: Record<string, never>
  square: Record<string, never>
  square_backward: Record<string, never>
  stochastic_cast: { seed: number; offset: number }
  sub: Record<string, never>
  sum: { axes: readonly number[]; keepdims: boolean }
  swiglu: Record<string, never>
  swiglu_backward: Record<string, never>
  tanh: Record<string, never>
  tanh_backward: Record<string, never>
  to_fp8: { format: 'e4m3' | 'e5m2'; saturate: boolean }
  top_k: { k: number; axis: number }
  unfold: { kernel: readonly number[]; stride: readonly number[]; padding: readonly number[]; dilation: readonly number[] }
  where: Record<string, never>
  write_slice: { start: readonly number[] }
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
    name: 'adam',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'lr', type: 'number' }, { name: 'beta1', type: 'number' }, { name: 'beta2', type: 'number' }, { name: 'eps', type: 'number' }, { name: 'l2', type: 'number' }, { name: 'weight_decay', type: 'number' }, { name: 'step', type: 'integer' }],
  },
  {
    name: 'adamw',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'lr', type: 'number' }, { name: 'beta1', type: 'number' }, { name: 'beta2', type: 'number' }, { name: 'eps', type: 'number' }, { name: 'weight_decay', type: 'number' }, { name: 'step', type: 'integer' }],
  },
  {
    name: 'adamw_8bit',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'lr', type: 'number' }, { name: 'beta1', type: 'number' }, { name: 'beta2', type: 'number' }, { name: 'eps', type: 'number' }, { name: 'weight_decay', type: 'number' }, { name: 'block', type: 'integer' }, { name: 'step', type: 'integer' }],
  },
  {
    name: 'add',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'amsgrad',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'lr', type: 'number' }, { name: 'beta1', type: 'number' }, { name: 'beta2', type: 'number' }, { name: 'eps', type: 'number' }, { name: 'l2', type: 'number' }, { name: 'weight_decay', type: 'number' }, { name: 'step', type: 'integer' }],
  },
  {
    name: 'argmax',
    inputs: [input('x')],
    attrs: [{ name: 'axes', type: 'integers' }, { name: 'keepdims', type: 'flag' }],
  },
  {
    name: 'argmin',
    inputs: [input('x')],
    attrs: [{ name: 'axes', type: 'integers' }, { name: 'keepdims', type: 'flag' }],
  },
  {
    name: 'attention',
    inputs: [input('q'), input('k', '?'), input('v', '?'), input('key_mask', '?'), input('segments', '?'), input('slopes', '?')],
    attrs: [{ name: 'heads', type: 'integer' }, { name: 'kv_heads', type: 'integer' }, { name: 'causal', type: 'flag' }, { name: 'window', type: 'integer' }, { name: 'scale', type: 'number' }, { name: 'dropout', type: 'number' }, { name: 'seed', type: 'integer' }, { name: 'offset', type: 'integer' }, { name: 'kv_length', type: 'integer' }],
  },
  {
    name: 'attention_backward',
    inputs: [input('grad_out'), input('q'), input('k', '?'), input('v', '?'), input('out'), input('lse'), input('key_mask', '?'), input('segments', '?'), input('slopes', '?')],
    attrs: [{ name: 'heads', type: 'integer' }, { name: 'kv_heads', type: 'integer' }, { name: 'causal', type: 'flag' }, { name: 'window', type: 'integer' }, { name: 'scale', type: 'number' }, { name: 'dropout', type: 'number' }, { name: 'seed', type: 'integer' }, { name: 'offset', type: 'integer' }, { name: 'kv_length', type: 'integer' }],
  },
  {
    name: 'block_sparse_attention',
    inputs: [input('q'), input('k'), input('v'), input('row_starts'), input('columns'), input('mask_ids'), input('masks')],
    attrs: [{ name: 'heads', type: 'integer' }, { name: 'kv_heads', type: 'integer' }, { name: 'block', type: 'integer' }, { name: 'scale', type: 'number' }],
  },
  {
    name: 'block_sparse_attention_backward',
    inputs: [input('grad_out'), input('q'), input('k'), input('v'), input('out'), input('lse'), input('row_starts'), input('columns'), input('mask_ids'), input('masks'), input('column_starts'), input('column_entries'), input('entry_rows')],
    attrs: [{ name: 'heads', type: 'integer' }, { name: 'kv_heads', type: 'integer' }, { name: 'block', type: 'integer' }, { name: 'scale', type: 'number' }],
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
    name: 'concat',
    inputs: [input('xs', '*')],
    attrs: [{ name: 'axis', type: 'integer' }],
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
    name: 'cross_entropy',
    inputs: [input('logits'), input('targets')],
    attrs: [{ name: 'ignore_index', type: 'integer' }, { name: 'label_smoothing', type: 'number' }],
  },
  {
    name: 'cross_entropy_backward',
    inputs: [input('grad'), input('logits'), input('targets'), input('log_sums')],
    attrs: [{ name: 'ignore_index', type: 'integer' }, { name: 'label_smoothing', type: 'number' }],
  },
  {
    name: 'csr_attention',
    inputs: [input('q'), input('k'), input('v'), input('row_starts'), input('columns'), input('key_mask', '?'), input('segments', '?')],
    attrs: [{ name: 'heads', type: 'integer' }, { name: 'kv_heads', type: 'integer' }, { name: 'causal', type: 'flag' }, { name: 'scale', type: 'number' }, { name: 'entries', type: 'integers' }, { name: 'layout', type: 'integer' }, { name: 'block', type: 'integer' }],
  },
  {
    name: 'csr_attention_backward',
    inputs: [input('grad_out'), input('q'), input('k'), input('v'), input('lse'), input('row_starts'), input('columns'), input('column_starts'), input('column_rows'), input('places'), input('key_mask', '?'), input('segments', '?'), input('turn_starts', '?'), input('turn_quads', '?'), input('turn_order', '?')],
    attrs: [{ name: 'heads', type: 'integer' }, { name: 'kv_heads', type: 'integer' }, { name: 'causal', type: 'flag' }, { name: 'scale', type: 'number' }, { name: 'entries', type: 'integers' }, { name: 'layout', type: 'integer' }, { name: 'block', type: 'integer' }],
  },
  {
    name: 'cumsum',
    inputs: [input('x')],
    attrs: [{ name: 'axis', type: 'integer' }, { name: 'reverse', type: 'flag' }],
  },
  {
    name: 'dequantize_blocks',
    inputs: [input('codes'), input('scales')],
    attrs: [{ name: 'block', type: 'integer' }, { name: 'with_sign', type: 'flag' }],
  },
  {
    name: 'dequantize_nibbles',
    inputs: [input('codes'), input('scales')],
    attrs: [{ name: 'book', type: 'numbers' }, { name: 'block', type: 'integer' }, { name: 'shape', type: 'integers' }, { name: 'dtype', type: 'choice', choices: dtypes }],
  },
  {
    name: 'div',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'dropout',
    inputs: [input('x')],
    attrs: [{ name: 'p', type: 'number' }, { name: 'seed', type: 'integer' }, { name: 'offset', type: 'integer' }],
  },
  {
    name: 'embedding',
    inputs: [input('weight'), input('ids'), input('position_table', '?'), input('positions', '?')],
    attrs: [{ name: 'offset', type: 'integer' }],
  },
  {
    name: 'embedding_backward',
    inputs: [input('grad'), input('ids', '?'), input('into', '?!')],
    attrs: [{ name: 'rows', type: 'integer' }, { name: 'offset', type: 'integer' }],
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
    name: 'feature_attention',
    inputs: [input('q'), input('k'), input('v'), input('q_shift', '?'), input('k_shift', '?')],
    attrs: [{ name: 'causal', type: 'flag' }, { name: 'map', type: 'choice', choices: ['none', 'elu', 'exp'] }, { name: 'eps', type: 'number' }],
  },
  {
    name: 'feature_attention_backward',
    inputs: [input('grad_out'), input('q'), input('k'), input('v'), input('out'), input('norm'), input('q_shift', '?'), input('k_shift', '?')],
    attrs: [{ name: 'causal', type: 'flag' }, { name: 'map', type: 'choice', choices: ['none', 'elu', 'exp'] }, { name: 'eps', type: 'number' }],
  },
  {
    name: 'fill',
    inputs: [],
    attrs: [{ name: 'shape', type: 'integers' }, { name: 'value', type: 'number' }, { name: 'dtype', type: 'choice', choices: dtypes }],
  },
  {
    name: 'flip',
    inputs: [input('x')],
    attrs: [{ name: 'axes', type: 'integers' }],
  },
  {
    name: 'floor',
    inputs: [input('x')],
    attrs: [],
  },
  {
    name: 'fold',
    inputs: [input('columns')],
    attrs: [{ name: 'kernel', type: 'integers' }, { name: 'stride', type: 'integers' }, { name: 'padding', type: 'integers' }, { name: 'dilation', type: 'integers' }, { name: 'size', type: 'integers' }],
  },
  {
    name: 'fp8_matmul',
    inputs: [input('a'), input('b'), input('factor_a'), input('factor_b')],
    attrs: [{ name: 'format_a', type: 'choice', choices: ['e4m3', 'e5m2'] }, { name: 'format_b', type: 'choice', choices: ['e4m3', 'e5m2'] }],
  },
  {
    name: 'from_fp8',
    inputs: [input('codes')],
    attrs: [{ name: 'format', type: 'choice', choices: ['e4m3', 'e5m2'] }, { name: 'dtype', type: 'choice', choices: dtypes }],
  },
  {
    name: 'gather',
    inputs: [input('x'), input('index')],
    attrs: [{ name: 'axis', type: 'integer' }],
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
    name: 'grad_norm_clip',
    inputs: [input('grads', '*')],
    attrs: [{ name: 'max_norm', type: 'number' }, { name: 'unscale', type: 'number' }],
  },
  {
    name: 'gt',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'index_add',
    inputs: [input('x', '?'), input('index'), input('source')],
    attrs: [{ name: 'axis', type: 'integer' }, { name: 'shape', type: 'integers' }],
  },
  {
    name: 'index_select',
    inputs: [input('x'), input('index')],
    attrs: [{ name: 'axis', type: 'integer' }],
  },
  {
    name: 'int8_matmul',
    inputs: [input('a'), input('b'), input('a_scales'), input('b_scales'), input('a_zeros', '?'), input('bias', '?')],
    attrs: [{ name: 'out_dtype', type: 'choice', choices: dtypes }],
  },
  {
    name: 'lamb',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'lr', type: 'number' }, { name: 'beta1', type: 'number' }, { name: 'beta2', type: 'number' }, { name: 'eps', type: 'number' }, { name: 'weight_decay', type: 'number' }, { name: 'max_trust', type: 'number' }, { name: 'adapt', type: 'flag' }, { name: 'step', type: 'integer' }],
  },
  {
    name: 'lars',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'lr', type: 'number' }, { name: 'momentum', type: 'number' }, { name: 'trust', type: 'number' }, { name: 'weight_decay', type: 'number' }, { name: 'clip_rate', type: 'flag' }, { name: 'adapt', type: 'flag' }],
  },
  {
    name: 'layer_norm',
    inputs: [input('x'), input('weight', '?'), input('bias', '?')],
    attrs: [{ name: 'eps', type: 'number' }],
  },
  {
    name: 'layer_norm_backward',
    inputs: [input('grad'), input('x'), input('weight', '?'), input('mean'), input('rstd'), input('add', '?')],
    attrs: [],
  },
  {
    name: 'le',
    inputs: [input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'lerp',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'rate', type: 'number' }],
  },
  {
    name: 'lerp_square',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'rate', type: 'number' }],
  },
  {
    name: 'linear_cross_entropy',
    inputs: [input('x'), input('weight'), input('targets'), input('bias', '?')],
    attrs: [{ name: 'ignore_index', type: 'integer' }, { name: 'label_smoothing', type: 'number' }, { name: 'scale', type: 'number' }, { name: 'with_gradients', type: 'flag' }],
  },
  {
    name: 'lion',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'lr', type: 'number' }, { name: 'beta1', type: 'number' }, { name: 'beta2', type: 'number' }, { name: 'weight_decay', type: 'number' }],
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
    name: 'log_softmax',
    inputs: [input('x')],
    attrs: [{ name: 'axis', type: 'integer' }],
  },
  {
    name: 'log_softmax_backward',
    inputs: [input('grad'), input('y')],
    attrs: [{ name: 'axis', type: 'integer' }],
  },
  {
    name: 'log_sum_exp',
    inputs: [input('x')],
    attrs: [{ name: 'axes', type: 'integers' }, { name: 'keepdims', type: 'flag' }],
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
    attrs: [{ name: 'transpose_a', type: 'flag' }, { name: 'transpose_b', type: 'flag' }, { name: 'activation', type: 'choice', choices: ['none', 'gelu', 'gelu_exact', 'silu', 'relu'] }, { name: 'grad_activation', type: 'choice', choices: ['none', 'gelu', 'gelu_exact', 'silu', 'relu'] }, { name: 'save_pre_activation', type: 'flag' }, { name: 'save_activated_input', type: 'flag' }, { name: 'row_sums', type: 'flag' }, { name: 'out_dtype', type: 'choice', choices: dtypes }],
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
    name: 'nesterov',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'lr', type: 'number' }, { name: 'momentum', type: 'number' }, { name: 'l2', type: 'number' }],
  },
  {
    name: 'one_hot',
    inputs: [input('index')],
    attrs: [{ name: 'classes', type: 'integer' }, { name: 'dtype', type: 'choice', choices: dtypes }],
  },
  {
    name: 'permute',
    inputs: [input('x')],
    attrs: [{ name: 'axes', type: 'integers' }],
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
    name: 'quantize_blocks',
    inputs: [input('x')],
    attrs: [{ name: 'block', type: 'integer' }, { name: 'with_sign', type: 'flag' }],
  },
  {
    name: 'quantize_rows',
    inputs: [input('x')],
    attrs: [{ name: 'top', type: 'integer' }],
  },
  {
    name: 'random_normal',
    inputs: [],
    attrs: [{ name: 'shape', type: 'integers' }, { name: 'seed', type: 'integer' }, { name: 'offset', type: 'integer' }, { name: 'dtype', type: 'choice', choices: dtypes }],
  },
  {
    name: 'random_uniform',
    inputs: [],
    attrs: [{ name: 'shape', type: 'integers' }, { name: 'seed', type: 'integer' }, { name: 'offset', type: 'integer' }, { name: 'dtype', type: 'choice', choices: dtypes }],
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
    name: 'rms_norm',
    inputs: [input('x'), input('weight', '?')],
    attrs: [{ name: 'eps', type: 'number' }],
  },
  {
    name: 'rms_norm_backward',
    inputs: [input('grad'), input('x'), input('weight', '?'), input('rstd'), input('add', '?')],
    attrs: [],
  },
  {
    name: 'rotary',
    inputs: [input('x'), input('positions', '?')],
    attrs: [{ name: 'heads', type: 'integer' }, { name: 'kv_heads', type: 'integer' }, { name: 'base', type: 'number' }, { name: 'interleaved', type: 'flag' }, { name: 'offset', type: 'integer' }, { name: 'inverse', type: 'flag' }],
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
    name: 'sam_ascend',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'rho', type: 'number' }, { name: 'eta', type: 'number' }, { name: 'scaled', type: 'integers' }],
  },
  {
    name: 'sam_restore',
    inputs: [input('saved'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }],
  },
  {
    name: 'scale',
    inputs: [input('x')],
    attrs: [{ name: 'factor', type: 'number' }, { name: 'offset', type: 'number' }],
  },
  {
    name: 'scaled_add',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'decay', type: 'number' }, { name: 'factor', type: 'number' }],
  },
  {
    name: 'scatter_add',
    inputs: [input('x', '?'), input('index'), input('source')],
    attrs: [{ name: 'axis', type: 'integer' }, { name: 'shape', type: 'integers' }],
  },
  {
    name: 'schedule_free_adamw',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'lr', type: 'number' }, { name: 'beta1', type: 'number' }, { name: 'beta2', type: 'number' }, { name: 'eps', type: 'number' }, { name: 'weight_decay', type: 'number' }, { name: 'average', type: 'number' }, { name: 'step', type: 'integer' }],
  },
  {
    name: 'sgd',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'lr', type: 'number' }, { name: 'momentum', type: 'number' }, { name: 'dampening', type: 'number' }, { name: 'nesterov', type: 'flag' }, { name: 'weight_decay', type: 'number' }, { name: 'first', type: 'flag' }],
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
    name: 'slice',
    inputs: [input('x')],
    attrs: [{ name: 'start', type: 'integers' }, { name: 'stop', type: 'integers' }, { name: 'step', type: 'integers' }],
  },
  {
    name: 'slice_backward',
    inputs: [input('grad')],
    attrs: [{ name: 'start', type: 'integers' }, { name: 'stop', type: 'integers' }, { name: 'step', type: 'integers' }, { name: 'shape', type: 'integers' }],
  },
  {
    name: 'softmax',
    inputs: [input('x')],
    attrs: [{ name: 'axis', type: 'integer' }],
  },
  {
    name: 'softmax_backward',
    inputs: [input('grad'), input('y')],
    attrs: [{ name: 'axis', type: 'integer' }],
  },
  {
    name: 'sophia',
    inputs: [input('clip', '?'), input('tensors', '?*!')],
    attrs: [{ name: 'count', type: 'integer' }, { name: 'lr', type: 'number' }, { name: 'beta1', type: 'number' }, { name: 'scale', type: 'number' }, { name: 'weight_decay', type: 'number' }],
  },
  {
    name: 'sort',
    inputs: [input('x')],
    attrs: [{ name: 'axis', type: 'integer' }, { name: 'descending', type: 'flag' }],
  },
  {
    name: 'sparse_linear',
    inputs: [input('x'), input('values'), input('places'), input('offsets', '?'), input('bias', '?')],
    attrs: [{ name: 'out', type: 'integer' }, { name: 'rows', type: 'integer' }, { name: 'columns', type: 'integer' }],
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
    name: 'stochastic_cast',
    inputs: [input('x')],
    attrs: [{ name: 'seed', type: 'integer' }, { name: 'offset', type: 'integer' }],
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
    name: 'to_fp8',
    inputs: [input('x'), input('scale', '?')],
    attrs: [{ name: 'format', type: 'choice', choices: ['e4m3', 'e5m2'] }, { name: 'saturate', type: 'flag' }],
  },
  {
    name: 'top_k',
    inputs: [input('x')],
    attrs: [{ name: 'k', type: 'integer' }, { name: 'axis', type: 'integer' }],
  },
  {
    name: 'unfold',
    inputs: [input('x')],
    attrs: [{ name: 'kernel', type: 'integers' }, { name: 'stride', type: 'integers' }, { name: 'padding', type: 'integers' }, { name: 'dilation', type: 'integers' }],
  },
  {
    name: 'where',
    inputs: [input('condition'), input('x'), input('y')],
    attrs: [],
  },
  {
    name: 'write_slice',
    inputs: [input('target', '!'), input('source')],
    attrs: [{ name: 'start', type: 'integers' }],
  },
]

/** Of the table that the addon must have; see addon.opsHash(). */
export const opTableHash = 630794219
