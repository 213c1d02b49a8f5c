// The operators of a training step at realistic shapes, for the kernel report: each makes its inputs from host numbers (so that
// no other kernel runs), and is then run forwards, or forwards and backwards.
import { bigbird, causal, longformer } from '../../lib/attention/patterns'
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import type { DType } from '../../lib/native/dtype'
import { attention } from '../../lib/ops/attention'
import { clipGradNorm } from '../../lib/ops/clip'
import { crossEntropy } from '../../lib/ops/cross_entropy'
import { csrAttention, csrLayout } from '../../lib/ops/csr_attention'
import { dropout } from '../../lib/ops/dropout'
import { add, gelu, mul } from '../../lib/ops/elementwise'
import { embedding } from '../../lib/ops/embedding'
import { featureAttention } from '../../lib/ops/feature_attention'
import { layerNorm } from '../../lib/ops/layer_norm'
import { linearCrossEntropy } from '../../lib/ops/linear_cross_entropy'
import { linear } from '../../lib/ops/linear'
import { sum } from '../../lib/ops/reductions'
import { rmsNorm } from '../../lib/ops/rms_norm'
import { rotary } from '../../lib/ops/rotary'
import { softmax } from '../../lib/ops/softmax'
import { swiglu } from '../../lib/ops/swiglu'
import { nf4Codes } from '../../lib/nn/nf4'
import { Parameter } from '../../lib/nn/parameter'
import { adamw } from '../../lib/optim/adamw'
import { ascend } from '../../lib/techniques/sam'
import type { Device } from '../../lib/tensor/device'
import { keep, scope } from '../../lib/tensor/scope'
import { run1, tensor, type Tensor } from '../../lib/tensor/tensor'
import { composedAdamw, composedSam } from './unfused'

export interface KernelCase {
  name: string
  shape: string
  /** Kernels whose bytes are compulsory alone: the gate on bytes moved applies. */
  bound: 'bytes' | 'flops'
  /** Makes inputs; the result enqueues one run. */
  prepare(device: Device): (part: 'forward' | 'backward') => void
  parts: readonly ('forward' | 'backward')[]
}

let made = 0
function numbers(shape: readonly number[], device: Device, dtype: DType = 'bf16', requiresGrad = false): Tensor {
  const size = shape.reduce((n, d) => n * d, 1)
  const seed = ++made
  const values = Float32Array.from({ length: size }, (_, i) => (((Math.imul(i + seed, 2654435761 | 0) >>> 8) & 0xffff) / 32768 - 1) * 0.5)
  return keep(tensor(values, shape, { device, dtype, requiresGrad }))
}
const ids = (count: number, below: number, device: Device, shape: readonly number[] = [count]) =>
  keep(tensor(Int32Array.from({ length: count }, (_, i) => (Math.imul(i, 2654435761 | 0) >>> 8) % below), shape, { device, dtype: 'i32' }))

/** A case of tensors that want gradients, and the function of them. */
function differentiable(
  name: string,
  shape: string,
  bound: 'bytes' | 'flops',
  make: (device: Device) => { inputs: Tensor[]; run: () => Tensor },
): KernelCase {
  return {
    name, shape, bound, parts: ['forward', 'backward'],
    prepare(device) {
      const { inputs, run } = make(device)
      let seed: Tensor | null = null
      return (part) => {
        if (part === 'forward') return scope(() => void noGrad(run))
        scope(() => {
          const out = run()
          seed ??= out.size === 1 ? null : numbers(out.shape, device, out.dtype)
          backward(out, seed ?? undefined)
        })
        for (const input of inputs) {
          input.grad?.dispose()
          input.grad = null
        }
      }
    },
  }
}

function plain(name: string, shape: string, make: (device: Device) => () => void): KernelCase {
  return {
    name, shape, bound: 'bytes', parts: ['forward'],
    prepare(device) {
      const run = make(device)
      return () => scope(() => noGrad(run))
    },
  }
}

const [rows, width] = [4096, 768]
const updatedShapes = [[768, 2304], [768, 768], [768, 3072], [3072, 768], [768]]
const shape = `[${rows}, ${width}] bf16`
const one = (name: string, f: (x: Tensor) => Tensor) =>
  differentiable(name, shape, 'bytes', (device) => {
    const x = numbers([rows, width], device, 'bf16', true)
    return { inputs: [x], run: () => f(x) }
  })
const two = (name: string, f: (x: Tensor, y: Tensor) => Tensor) =>
  differentiable(name, shape, 'bytes', (device) => {
    const [x, y] = [0, 1].map(() => numbers([rows, width], device, 'bf16', true))
    return { inputs: [x, y], run: () => f(x, y) }
  })

export const kernelCases: readonly KernelCase[] = [
  two('add', add),
  two('mul', mul),
  one('gelu', (x) => gelu(x)),
  one('dropout', (x) => dropout(x, 0.1)),
  one('softmax', (x) => softmax(x, -1)),
  one('sum of rows', (x) => sum(x, -1)),
  one('sum of columns', (x) => sum(x, 0)),
  differentiable('swiglu', `[${rows}, 4096] bf16`, 'bytes', (device) => {
    const x = numbers([rows, 4096], device, 'bf16', true)
    return { inputs: [x], run: () => swiglu(x) }
  }),
  differentiable('layerNorm', shape, 'bytes', (device) => {
    const x = numbers([rows, width], device, 'bf16', true)
    const [gain, bias] = [0, 1].map(() => numbers([width], device, 'f32', true))
    return { inputs: [x, gain, bias], run: () => layerNorm(x, gain, bias) }
  }),
  differentiable('rmsNorm', shape, 'bytes', (device) => {
    const x = numbers([rows, width], device, 'bf16', true)
    const gain = numbers([width], device, 'f32', true)
    return { inputs: [x, gain], run: () => rmsNorm(x, gain) }
  }),
  differentiable('rotary', `[4, 1024, 3 * ${width}] bf16, 12 heads`, 'bytes', (device) => {
    const x = numbers([4, 1024, 3 * width], device, 'bf16', true)
    return { inputs: [x], run: () => rotary(x, { heads: 12, kvHeads: 12, base: 10000 }) }
  }),
  differentiable('embedding', `${rows} of 50304 x ${width}, f32`, 'bytes', (device) => {
    const table = numbers([50304, width], device, 'f32', true)
    const at = ids(rows, 50304, device, [4, rows / 4])
    return { inputs: [table], run: () => embedding(table, at) }
  }),
  differentiable('crossEntropy', '[512, 50304] bf16', 'bytes', (device) => {
    const logits = numbers([512, 50304], device, 'bf16', true)
    const targets = ids(512, 50304, device)
    return { inputs: [logits], run: () => crossEntropy(logits, targets) }
  }),
  plain('adamw', '7.1 M parameters, bf16 copies', (device) => {
    const all = (dtype: DType) => updatedShapes.map((each) => numbers(each, device, dtype))
    const [parameters, grads, m, v, copies] = [all('f32'), all('f32'), all('f32'), all('f32'), all('bf16')]
    return () => adamw({ parameters, grads, m, v, copies }, { lr: 1e-3, weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 3 })
  }),
  ...(['a launch each', 'elementwise operators'] as const).map((way) =>
    plain(`adamw, ${way}`, '7.1 M parameters, f32', (device) => {
      const all = () => updatedShapes.map((each) => numbers(each, device, 'f32'))
      const tensors = { parameters: all(), grads: all(), m: all(), v: all() }
      const options = { lr: 1e-3, weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 3 }
      const { parameters, grads, m, v } = tensors
      return way === 'a launch each'
        ? () => parameters.forEach((parameter, i) => adamw({ parameters: [parameter], grads: [grads[i]], m: [m[i]], v: [v[i]] }, options))
        : () => void composedAdamw(tensors, options)
    }),
  ),
  plain('sam, elementwise operators', '7.1 M parameters, f32', (device) => {
    const [parameters, grads] = [0, 1].map(() => updatedShapes.map((each) => numbers(each, device, 'f32')))
    return () => void composedSam({ parameters, grads }, 0.05)
  }),
  plain('clipGradNorm', '7.1 M gradients, f32', (device) => {
    const grads = updatedShapes.map((each) => numbers(each, device, 'f32'))
    return () => void clipGradNorm(grads, { maxNorm: 1 })
  }),
  ...([null, 0.01] as const).map((eta) =>
    plain(eta === null ? 'sam, move and back' : 'asam, move and back', '7.1 M parameters, f32', (device) => {
      const parameters = new Map(
        updatedShapes.map((each, i) => {
          const parameter = new Parameter(numbers(each, device, 'f32'))
          parameter.tensor.grad = numbers(each, device, 'f32')
          return [`weight${i}`, parameter] as const
        }),
      )
      return () => ascend(parameters, { rho: 0.05, eta: eta ?? undefined })()
    }),
  ),
  plain('NF4 weight', '[3072, 768] to bf16', (device) => {
    const codes = keep(tensor(Uint8Array.from({ length: (3072 * 768) / 2 }, (_, i) => (i * 37) & 255), null, { device }))
    const scales = numbers([(3072 * 768) / 64], device, 'f32')
    return () => void run1('dequantize_nibbles', [codes, scales], { book: nf4Codes, block: 64, shape: [3072, 768], dtype: 'bf16' })
  }),
  differentiable('linear', '[1024, 768] x [768, 768] bf16', 'flops', (device) => {
    const x = numbers([1024, width], device, 'bf16', true)
    const w = numbers([width, width], device, 'bf16', true)
    const b = numbers([width], device, 'f32', true)
    return { inputs: [x, w, b], run: () => linear(x, w, b) }
  }),
  differentiable('linearCrossEntropy', '[256, 768], 8192 words, bf16', 'flops', (device) => {
    const x = numbers([256, width], device, 'bf16', true)
    const w = numbers([8192, width], device, 'bf16', true)
    const targets = ids(256, 8192, device)
    return { inputs: [x, w], run: () => linearCrossEntropy(x, w, targets) }
  }),
  differentiable('csrAttention, cuSPARSE', '[1, 1024, 12, 64] bf16, dilated window, 64 keys', 'flops', (device) => {
    const [q, k, v] = [0, 1, 2].map(() => numbers([1, 1024, 12, 64], device, 'bf16', true))
    const layout = csrLayout(causal(longformer(128, [2])), { queries: 1024, keys: 1024 })
    return { inputs: [q, k, v], run: () => csrAttention(q, k, v, layout, { heads: 12 }) }
  }),
  differentiable('csrAttention, cuSPARSE, blocks', '[1, 1024, 12, 64] bf16, BigBird of 8 blocks of 32', 'flops', (device) => {
    const [q, k, v] = [0, 1, 2].map(() => numbers([1, 1024, 12, 64], device, 'bf16', true))
    const layout = csrLayout(bigbird({ block: 32 }), { queries: 1024, keys: 1024 }, 32)
    return { inputs: [q, k, v], run: () => csrAttention(q, k, v, layout, { heads: 12 }) }
  }),
  // FAVOR+'s features, and what is subtracted from them, as lib/attention/favor.ts makes them.
  ...[true, false].map((causal) =>
    differentiable(`featureAttention, ${causal ? 'causal' : 'all keys'}`, '[1, 1024, 12, 64] bf16, 256 features', 'flops', (device) => {
      const [q, k] = [0, 1].map(() => numbers([1, 1024, 12, 256], device, 'bf16', true))
      const [queryShift, keyShift] = [0, 1].map(() => numbers([1, 1024, 12], device))
      const v = numbers([1, 1024, 12, 64], device, 'bf16', true)
      return { inputs: [q, k, v], run: () => featureAttention(q, k, v, { causal, map: 'exp', queryShift, keyShift }) }
    }),
  ),
  ...[64, 128].map((headWidth) =>
    differentiable(`attention, head width ${headWidth}`, `[1, 1024, ${width / headWidth}, ${headWidth}] bf16, causal`, 'flops', (device) => {
      const heads = width / headWidth
      const [q, k, v] = [0, 1, 2].map(() => numbers([1, 1024, heads, headWidth], device, 'bf16', true))
      return { inputs: [q, k, v], run: () => attention(q, k, v, { heads, causal: true }) }
    }),
  ),
]
