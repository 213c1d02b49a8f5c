// What checkpointing and offloading save and cost: whole training steps of one model, by policy.
//
//   npm run bench -- memory [--device cpu] [--quick] [--folder DIR]
//
// Losses are the same in every row, or the program fails. Writes bench/results/memory_DEVICE.json.
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import type { GPTConfig } from '../../lib/models/gpt'
import { checkpointing } from '../../lib/techniques/checkpointing'
import { offload } from '../../lib/techniques/offload'
import type { Technique } from '../../lib/techniques/technique'
import { getDevice } from '../../lib/tensor/device'
import { median } from '../../lib/train/format'
import { gptTrainer } from '../gpt_trainer'

const { values } = parseArgs({
  options: { device: { type: 'string', default: 'cpu' }, quick: { type: 'boolean', default: false }, folder: { type: 'string' } },
})
const device = getDevice(values.device)
const cpu = device.name === 'cpu'
const config: GPTConfig = values.quick
  ? { vocab: 256, context: 64, layers: 6, width: 64, heads: 2 }
  : cpu
    ? { vocab: 256, context: 256, layers: 12, width: 192, heads: 6 }
    : { vocab: 50257, context: 1024, layers: 12, width: 768, heads: 12 }
const batch = values.quick ? 4 : 8
const steps = values.quick ? 4 : 8

async function measure(techniques: Technique[]) {
  const before = (await device.synchronize()).liveBytes
  const { trainer, dispose } = gptTrainer(device, config, batch, steps, techniques)
  const losses: number[] = []
  const ms: number[] = []
  let [peak, flops] = [0, 0]
  for await (const metrics of trainer.train()) {
    losses.push(metrics.loss)
    // The first steps find plans, and let libraries choose their algorithms.
    if (metrics.step > 2) ms.push(metrics.stepMs)
    peak = metrics.peakBytes - before
    flops = metrics.flops
  }
  for (const line of await trainer.summary()) console.log(`    ${line}`)
  await dispose()
  return { losses, ms: median(ms), peak, flops }
}

const plain = await measure([])
const rows = [{ policy: 'none', ms: plain.ms, mib: plain.peak / 2 ** 20, flops: 1 }]
const show = ({ policy, ms, mib, flops }: (typeof rows)[0]) =>
  console.log(`${policy.padEnd(62)} ${ms.toFixed(1).padStart(9)} ms ${mib.toFixed(1).padStart(9)} MiB ${flops.toFixed(3)} x FLOPs`)
show(rows[0])
const place = cpu ? 'disk' : 'host'
const where = values.folder ? { folder: values.folder } : {}
const { liveBytes } = await device.synchronize()
const policies: [string, () => Technique[]][] = [
  ['checkpointing every=1', () => [checkpointing.create({ policy: 'every' })]],
  ['checkpointing sqrt', () => [checkpointing.create({ policy: 'sqrt' })]],
  ['checkpointing selective', () => [checkpointing.create({ policy: 'selective' })]],
  ...[0, 0.5].map((share): [string, () => Technique[]] => [
    `checkpointing optimal, bytes of every=1${share ? ' and half of the rest' : ''}`,
    () => {
      const bytes = 2 ** 20 * (rows[1].mib + share * (rows[0].mib - rows[1].mib))
      return [checkpointing.create({ policy: 'optimal', budget: String(Math.ceil(liveBytes + bytes)) })]
    },
  ]),
  [`offload state=${place}`, () => [offload.create({ state: place, ...where })]],
  [`offload activations=${place}`, () => [offload.create({ state: 'none', activations: place, ...where })]],
  [`offload state, gradients, activations=${place}; sqrt`, () => [offload.create({ state: place, gradients: place, activations: place, ...where }), checkpointing.create({})]],
]
for (const [policy, techniques] of policies) {
  const found = await measure(techniques())
  if (found.losses.join() !== plain.losses.join()) throw new Error(`${policy}: losses ${found.losses.join()} instead of ${plain.losses.join()}`)
  rows.push({ policy, ms: found.ms, mib: found.peak / 2 ** 20, flops: found.flops / plain.flops })
  show(rows[rows.length - 1])
}
mkdirSync(path.join('bench', 'results'), { recursive: true })
writeFileSync(path.join('bench', 'results', `memory_${device.name.replace(':', '_')}.json`), JSON.stringify({ config, batch, rows }, null, 2))
