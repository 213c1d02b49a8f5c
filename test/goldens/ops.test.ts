// Operators whose definition is easy to get subtly wrong, against PyTorch's f64 results and gradients
// (test/goldens/op_cases.py): f64 to 1e-12 of the largest number, f32 to 1e-5; softmax to 1e-4, as its inputs near 800
// lose 5e-5 when they become f32.
import { backward } from '../../lib/autograd/backward'
import { Parameter } from '../../lib/nn/parameter'
import { attention } from '../../lib/ops/attention'
import { conv1d, conv2d } from '../../lib/ops/conv'
import { crossEntropy } from '../../lib/ops/cross_entropy'
import { gelu, mul, silu } from '../../lib/ops/elementwise'
import { layerNorm } from '../../lib/ops/layer_norm'
import { sum } from '../../lib/ops/reductions'
import { rmsNorm } from '../../lib/ops/rms_norm'
import { rotary } from '../../lib/ops/rotary'
import { logSoftmax, softmax } from '../../lib/ops/softmax'
import { AdamW } from '../../lib/optim/adamw'
import { Nesterov } from '../../lib/optim/nesterov'
import type { Optimizer, ParameterGroup } from '../../lib/optim/optimizer'
import { SGD } from '../../lib/optim/sgd'
import type { Device } from '../../lib/tensor/device'
import { keep, scope } from '../../lib/tensor/scope'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
import { testDevices } from '../support/devices'
import { goldenFacts, goldenTensors, relative, type Goldens } from '../support/goldens'

// As the script wrote them: every operator has its own.
// eslint-disable-next-line @typescript-eslint/no-explicit-any
type Attributes = Record<string, any>

interface Case {
  name: string
  op: string
  attributes: Attributes
  inputs: string[]
  gradients: string[]
  state?: string[]
}
type Inputs = Record<string, Tensor>

const operators: Record<string, (inputs: Inputs, attributes: Attributes) => Tensor> = {
  layer_norm: ({ x, weight, bias }, { eps }) => layerNorm(x, weight, bias, eps),
  rms_norm: ({ x, weight }, { eps }) => rmsNorm(x, weight, eps),
  gelu: ({ x }) => gelu(x),
  gelu_exact: ({ x }) => gelu(x, 'none'),
  silu: ({ x }) => silu(x),
  softmax: ({ x }, { axis }) => softmax(x, axis),
  log_softmax: ({ x }, { axis }) => logSoftmax(x, axis),
  cross_entropy: ({ logits, targets }, { label_smoothing, ignored_target, reduction }) =>
    crossEntropy(logits, targets, { labelSmoothing: label_smoothing, ignoreIndex: ignored_target, reduction }),
  attention: ({ q, k, v, slopes }, { kv_heads, ...rest }) => 
    attention(q, k, v, { heads: rest.heads, ...rest, kvHeads: kv_heads, slopes }),
  rotary: ({ x, positions }, { base, interleaved }) => rotary(x, { base, interleaved, positions }),
  conv1d: ({ x, weight, bias }, options) => conv1d(x, weight, bias, options),
  conv2d: ({ x, weight, bias }, options) => conv2d(x, weight, bias, options),
}

const optimizers: Record<string, (groups: ParameterGroup[], attributes: Attributes) => Optimizer> = {
  adamw: (groups, { betas: [beta1, beta2], eps }) => new AdamW(groups, { beta1, beta2, eps }),
  sgd: (groups) => new SGD(groups),
  sgd_momentum: (groups, { momentum }) => new SGD(groups, { momentum }),
  nesterov: (groups, { momentum }) => new Nesterov(groups, { momentum }),
}

const cases: Case[] = goldenFacts('ops').cases
let goldens: Goldens

beforeAll(async () => {
  goldens = await goldenTensors('ops')
})

async function operatorErrors({ name, op, attributes, inputs, gradients }: Case, dtype: 'f32' | 'f64', device: Device) {
  const values: Inputs = {}
  for (const key of inputs) {
    const stored = `${name}.in.${key}`
    const integers = goldens.tensors[stored].dtype === 'i32'
    const format = key === 'slopes' ? 'f32' : dtype
    const data = integers ? goldens.ints(stored) : goldens.numbers(stored)
    const wanted = { dtype: integers ? 'i32' : format, device, requiresGrad: gradients.includes(key) } as const
    values[key] = keep(tensor(data, goldens.shape(stored), wanted))
  }
  const { out } = scope(() => {
    const result = operators[op](values, attributes)
    const upstream = tensor(goldens.numbers(`${name}.grad_out`), goldens.shape(`${name}.grad_out`), { dtype, device })
    backward(sum(mul(result, upstream)))
    return { out: result.detach() }
  })
  const errors: Record<string, number> = { out: relative(await out.toFloat64(), goldens.numbers(`${name}.out`)) }
  for (const key of gradients) {
    errors[key] = relative(await values[key].grad!.toFloat64(), goldens.numbers(`${name}.grad.${key}`))
  }
  out.dispose()
  for (const value of Object.values(values)) value.dispose()
  return errors
}

describe.each(testDevices().map((device) => [device.name, device] as const))('PyTorch goldens on %s', (_, device) => {
  describe.each([['f64', 1e-12], ['f32', 1e-5]] as const)('%s', (dtype, bound) => {
    test.each(cases.filter(({ op }) => op in operators))('$name', async (entry) => {
      const allowed = dtype === 'f32' && entry.op.endsWith('softmax') ? 1e-4 : bound
      const errors = Object.entries(await operatorErrors(entry, dtype, device))
      expect(errors.filter(([, error]) => !(error <= allowed))).toEqual([])
    })

    test.each(cases.filter(({ op }) => op in optimizers))('$name', async ({ name, op, attributes }) => {
      const { lr, weight_decay: weightDecay } = attributes
      const shape = goldens.shape(`${name}.in.parameter`)
      const parameter = new Parameter(tensor(goldens.numbers(`${name}.in.parameter`), shape, { dtype, device }))
      const optimizer = optimizers[op]([{ parameters: new Map([['p', parameter]]), weightDecay }], attributes)
      const size = parameter.tensor.size
      const gradients = goldens.numbers(`${name}.in.gradients`)
      const wanted = goldens.numbers(`${name}.out`)
      for (let step = 0; step * size < wanted.length; ++step) {
        const here = [step * size, (step + 1) * size] as const
        parameter.tensor.grad = keep(tensor(gradients.slice(...here), shape, { dtype, device }))
        optimizer.step(lr)
        optimizer.zeroGrad()
        expect(relative(await parameter.tensor.toFloat64(), wanted.slice(...here))).toBeLessThan(bound)
      }
      optimizer.dispose()
      parameter.dispose()
    })
  })

  test('every case is one of these', () => {
    expect(cases.filter(({ op }) => !(op in operators) && !(op in optimizers))).toEqual([])
  })
})
