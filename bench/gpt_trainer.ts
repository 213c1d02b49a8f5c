// A GPT that trains on one batch of tokens by a formula, for what is measured of techniques.
import { GPT, type GPTConfig } from '../lib/models/gpt'
import { AdamW } from '../lib/optim/adamw'
import { decayGroups } from '../lib/optim/optimizer'
import type { Technique } from '../lib/techniques/technique'
import type { Device } from '../lib/tensor/device'
import { seed } from '../lib/tensor/random'
import { Trainer } from '../lib/train/trainer'

export function gptTrainer(device: Device, config: GPTConfig, batch: number, steps: number, techniques: Technique[]) {
  seed(1)
  const model = new GPT(config, { device })
  const optimizer = new AdamW(decayGroups(model.namedParameters(), 0.1))
  const size = batch * config.context
  const ids = (shift: number) => Int32Array.from({ length: size }, (_, i) => (Math.imul(i + shift, 2654435761 | 0) >>> 8) % config.vocab)
  const one = { inputs: ids(0), targets: ids(1), batch, context: config.context, tokens: size }
  const trainer = new Trainer({ model, optimizer, schedule: () => 1e-4, data: { batch: () => one }, steps, techniques, precision: 'bf16' })
  const dispose = async () => {
    model.dispose()
    optimizer.dispose()
    await device.synchronize()
  }
  return { trainer, dispose }
}
