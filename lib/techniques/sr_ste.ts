// 2:4 sparsity from scratch (SR-STE): layers compute with W * M, where M keeps the 2 largest |w| of every 4 consecutive
// weights along the input, found anew at every step. The gradient of W * M arrives at W as it is (straight through), and
// the weights that are masked decay: g += lambda (1 - M) W. Evaluated and published is W * M, which sparse tensor cores can
// run; training itself computes densely. With AdamW the decay goes through its moments, as in the reference.
// Source: Zhou et al., arXiv 2102.04010; the hardware's pattern, Mishra et al., arXiv 2104.08378.
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import type { DType } from '../native/dtype'
import type { Parameter } from '../nn/parameter'
import { cast } from '../ops/cast'
import { ones, zeros } from '../ops/creation'
import { abs, mul, mulScalar, sub } from '../ops/elementwise'
import { scatterAdd } from '../ops/gather'
import { accumulate } from '../ops/accumulate'
import { topK } from '../ops/sort'
import { scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { maskableOf, sparse } from './masks'
import { defineTechnique, type GradientOptions, type StepContext } from './technique'

/** 1 at the n largest |w| of every m consecutive weights along the last axis, 0 elsewhere, in w's format. */
export function groupMask(w: Tensor, n = 2, m = 4): Tensor {
  if (w.shape[w.rank - 1] % m !== 0) {
    throw new LeanformerError('ERR_SHAPE', `groupMask: the last axis of [${w.shape.join(', ')}] is not a multiple of ${m}`, 'choose widths so')
  }
  const groups = w.size / m
  const { indices } = topK(abs(w).viewAs([groups, m]), n, 1)
  const options = { dtype: w.dtype, device: w.device }
  return scatterAdd(zeros([groups, m], options), 1, indices, ones([groups, n], options)).viewAs(w.shape)
}

/** Runs a step in which layers compute with other values than their parameters hold; `edit` then changes the gradients. */
export function substitutedStep(
  parameters: Map<string, Parameter>,
  substitute: (name: string, parameter: Parameter) => Tensor,
  next: () => void,
  context: StepContext,
  edit: (options?: GradientOptions) => void,
): void {
  const plain = context.gradients
  context.gradients = (options) => {
    const formats = new Map<Parameter, DType>()
    for (const [name, parameter] of parameters) {
      formats.set(parameter, parameter.value.dtype)
      const value = noGrad(() => scope(() => cast(substitute(name, parameter), parameter.value.dtype)))
      parameter.computeWith(value)
    }
    try {
      plain(options)
    } finally {
      for (const [parameter, format] of formats) parameter.setComputeDType(format)
    }
    noGrad(() => scope(() => edit(options)))
  }
  try {
    next()
  } finally {
    context.gradients = plain
  }
}

export const srSteEntry = defineTechnique({
  name: 'sr_ste',
  title: '2:4 sparsity from scratch, with decay of what is masked',
  category: 'sparse training',
  source: 'Zhou et al., arXiv 2102.04010',
  settings: {
    decay: { default: 2e-4, min: 0, help: 'decay of masked weights, in their gradient' },
    kept: { default: 2, min: 1, integer: true, help: 'weights kept of each group; all of them: off' },
    group: { default: 4, min: 2, integer: true, help: 'consecutive weights along the input that make a group' },
  },
  decides: [...sparse.decides, 'evaluated_weights'],
  excludes: { ...sparse.excludes, sophia_curvature: 'the curvature would be that of the weights without masks' },
  neutral: { settings: { kept: 4 } },
  make: ({ decay, kept, group }) => {
    let parameters: Map<string, Parameter>
    const mask = (parameter: Parameter) => groupMask(parameter.tensor, kept, group)
    const masked = ({ tensor }: Parameter) => mul(tensor, groupMask(tensor, kept, group))
    return {
      after: ['noise_scale'],
      setup(run) {
        parameters = maskableOf(run.parameters)
        const odd = [...parameters].find(([, { shape }]) => shape[shape.length - 1] % group !== 0)
        if (odd && kept < group) {
          throw new LeanformerError('ERR_OPTION', `sr_ste: ${odd[0]} has rows of ${odd[1].shape[odd[1].shape.length - 1]}, no multiple of ${group}`, 'choose the width of the model so')
        }
      },
      step(next, context) {
        if (kept >= group) return next()
        substitutedStep(parameters, (_, parameter) => masked(parameter), next, context, (options) => {
          // The gradient of one micro-batch is of its share alone.
          const share = options?.only === undefined ? 1 : 1 / context.batches.length
          for (const parameter of parameters.values()) {
            const { tensor, grad } = parameter
            if (!grad || decay === 0) continue
            const outside = mul(tensor, sub(ones([], { dtype: tensor.dtype, device: tensor.device }), mask(parameter)))
            accumulate(grad, mulScalar(outside, share * decay * context.lossScale))
          }
        })
      },
      evaluationWeights: () =>
        kept >= group ? null : new Map([...parameters].map(([name, parameter]) => [name, masked(parameter)])),
    }
  },
})
