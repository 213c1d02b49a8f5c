// Whether offloading to the host's memory hides behind a GPU's work, and whether its cost is what the bandwidth says:
//
//   npm run bench -- offload [--device cuda:0] [--quick] [--check]
//
// A GPT trains in bf16 with AdamW at three sizes of batch: in memory; with both moments in the host's memory; and so with delayed
// updates in the backward pass, beside which the moments come and go. Moving them there and back is also timed alone. Without
// the delay they can only move when the norm of all gradients is known, after the pass.
//   overlap     the delayed step by the longer of the step in memory and the transfers alone; 1.15 at most
//               (Ren et al., ZeRO-Offload, arXiv 2101.06840). Updates run on the GPU, so there is no step of the CPU's.
//   efficiency  ait bw / (ait bw + peak), with ait the step's FLOPs by the bytes moved, bw their rate alone and peak the rate in
//               memory (Rajbhandari et al., ZeRO-Infinity, arXiv 2104.07857, section 4). Measured within 15 % of it.
// --check fails where one of the two does not hold. Writes bench/results/offload_DEVICE.json.
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { noGrad } from '../../lib/autograd/tape'
import { GPT, type GPTConfig } from '../../lib/models/gpt'
import { zeros } from '../../lib/ops/creation'
import { delayedUpdate } from '../../lib/techniques/delayed_update'
import { offload } from '../../lib/techniques/offload'
import type { Technique } from '../../lib/techniques/technique'
import { updateInBackward } from '../../lib/techniques/update_in_backward'
import { getDevice } from '../../lib/tensor/device'
import { Pager } from '../../lib/tensor/pager'
import { keep } from '../../lib/tensor/scope'
import type { Tensor } from '../../lib/tensor/tensor'
import { median } from '../../lib/train/format'
import { gptTrainer } from '../gpt_trainer'

const { values } = parseArgs({
  options: { device: { type: 'string', default: 'cuda:0' }, quick: { type: 'boolean', default: false }, check: { type: 'boolean', default: false } },
})
const device = getDevice(values.device)
const config: GPTConfig = values.quick
  ? { vocab: 256, context: 32, layers: 2, width: 64, heads: 2 }
  : { vocab: 256, context: 1024, layers: 12, width: 768, heads: 12 }
const batches = values.quick ? [1, 2, 4] : [16, 32, 64]
const steps = values.quick ? 5 : 14

/** Milliseconds and FLOPs of a step. */
async function measure(batch: number, techniques: Technique[]) {
  const { trainer, dispose } = gptTrainer(device, config, batch, steps, techniques)
  const ms: number[] = []
  let flops = 0
  for await (const metrics of trainer.train()) {
    // The first steps find plans, and let libraries choose their algorithms.
    if (metrics.step > 4) ms.push(metrics.stepMs)
    flops = metrics.flops
  }
  await dispose()
  return { ms: median(ms), flops }
}

/** Milliseconds of moving all moments to the device and back, in pieces as an update does, and their bytes one way. */
async function moveMoments(): Promise<{ ms: number; bytes: number }> {
  const model = new GPT(config, { device })
  const pager = new Pager(null)
  const moments = model.parameters().flatMap((parameter) => [0, 1].map(() => keep(noGrad(() => zeros(parameter.shape, { device })))))
  const bytes = moments.reduce((sum, { size }) => sum + 4 * size, 0)
  const pieces: Tensor[][] = [[]]
  let room = 2 * 16 * 2 ** 20
  for (const tensor of moments) {
    if (4 * tensor.size > room) {
      pieces.push([])
      room = 2 * 16 * 2 ** 20
    }
    room -= 4 * tensor.size
    pieces.at(-1)!.push(tensor)
  }
  const round = () => {
    for (const [i, piece] of pieces.entries()) {
      for (const tensor of pieces[i + 1] ?? []) pager.prefetch(tensor)
      for (const tensor of piece) pager.pageIn(tensor)
      for (const tensor of piece) pager.pageOut(tensor)
    }
  }
  round()
  const times: number[] = []
  for (let i = 0; i < 5; ++i) {
    await device.synchronize()
    const start = performance.now()
    round()
    await device.synchronize()
    times.push(performance.now() - start)
  }
  for (const tensor of moments) tensor.dispose()
  pager.close()
  model.dispose()
  return { ms: median(times), bytes }
}

const { ms: transfer, bytes } = await moveMoments()
const bandwidth = (2 * bytes) / transfer / 1e6
console.log(`${device.name}: ${device.facts().description}`)
console.log(`moments: ${(bytes / 1e9).toFixed(3)} GB each way in ${transfer.toFixed(2)} ms, ${bandwidth.toFixed(1)} GB/s both ways together`)
const rows = []
for (const batch of batches) {
  const memory = await measure(batch, [])
  const offloaded = await measure(batch, [offload.create({ state: 'host' })])
  const delayed = await measure(batch, [offload.create({ state: 'host', piece: '64MiB' }), delayedUpdate.create({ from: 0 }), updateInBackward.create()])
  const peak = memory.flops / memory.ms / 1e9
  const ait = memory.flops / (2 * bytes)
  const efficiency = (ait * bandwidth) / (ait * bandwidth + 1000 * peak)
  const row = {
    tokens: batch * config.context,
    in_memory_ms: memory.ms,
    offloaded_ms: offloaded.ms,
    delayed_ms: delayed.ms,
    overlap: delayed.ms / Math.max(memory.ms, transfer),
    model_tflops: efficiency * peak,
    measured_tflops: memory.flops / offloaded.ms / 1e9,
    by_model: memory.ms / efficiency / offloaded.ms,
  }
  rows.push(row)
  console.log(Object.entries(row).map(([name, value]) => `${name} ${Number(value.toPrecision(4))}`).join('  '))
}
mkdirSync(path.join('bench', 'results'), { recursive: true })
writeFileSync(path.join('bench', 'results', `offload_${device.name.replace(':', '_')}.json`), JSON.stringify({ config, bytes, transfer, rows }, null, 2))
if (values.check) {
  const wrong = rows.filter(({ overlap, by_model }) => overlap > 1.15 || Math.abs(by_model - 1) > 0.15)
  if (wrong.length) throw new Error(`offloading misses its bars at ${wrong.map(({ tokens }) => tokens).join(', ')} tokens`)
}
