// Training steps of a GPT on one batch, for what is measured of whole steps.
import { backward } from '../../lib/autograd/backward'
import { GPT, type GPTConfig } from '../../lib/models/gpt'
import { clipGradNorm } from '../../lib/ops/clip'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import type { Device } from '../../lib/tensor/device'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'

export interface StepOptions {
  precision: 'f32' | 'bf16'
  /** Steps that repeat themselves may run as one graph. */
  graphs: boolean
  checkpointing?: boolean
}

/** `step` enqueues forward, backward, clipping and AdamW, and resolves to the loss. */
export function gptSteps(device: Device, config: GPTConfig, batch: number, { precision, graphs, checkpointing = false }: StepOptions) {
  const model = new GPT({ ...config, checkpointing }, { device })
  model.setComputeDType(precision)
  const optimizer = new AdamW(decayGroups(model.namedParameters(), 0.1), { beta1: 0.9, beta2: 0.99 })
  const ids = (shift: number) => Int32Array.from({ length: batch * config.context }, (_, i) => (Math.imul(i + shift, 2654435761 | 0) >>> 8) % config.vocab)
  const [inputs, targets] = [ids(0), ids(1)]
  const work = () => {
    const [x, y] = [inputs, targets].map((values) => tensor(values, [batch, config.context], { device }))
    const loss = model.loss(x, y)
    backward(loss)
    const { clip } = clipGradNorm(model.parameters().map((parameter) => parameter.grad!), { maxNorm: 1 })
    optimizer.step(1e-4, clip)
    optimizer.zeroGrad()
    return loss
  }
  return {
    step: (): Promise<number> => scope(() => ({ loss: (graphs ? device.repeating(work) : work()).item() })).loss,
    dispose() {
      optimizer.dispose()
      model.dispose()
    },
  }
}
