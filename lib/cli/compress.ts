// `leanformer prune` and `leanformer quantise`: the model of a run made smaller, as a run folder of its own for sample and for
// train --from. LoRA's and IA3's adapters are merged into the weights first. Shown are parameters, bytes and the validation
// loss before and after. What is done lies in techniques/prune.ts, quantise.ts and gptq.ts.
import path from 'node:path'
import type { Writable } from 'node:stream'
import type { z } from 'zod'
import { loadTextDataset } from '../data/tokens'
import type { TextModel } from '../models/model_entry'
import { IntWeight } from '../nn/int_weight'
import { linearTargets } from '../nn/linear_parts'
import { ia3Layers, mergeIA3 } from '../techniques/ia3'
import { keepLayers } from '../techniques/layer_drop'
import { loraLayers, mergeLoRA } from '../techniques/lora'
import { best, gateScores, layerScores, pruneMagnitude, shrink, type PrunableModel } from '../techniques/prune'
import { quantiseGptq } from '../techniques/gptq'
import { quantise } from '../techniques/quantise'
import type { Batch } from '../techniques/technique'
import { getDevice } from '../tensor/device'
import { scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { saveCheckpoint } from '../train/checkpoint_file'
import { structureOf } from '../train/compressed'
import { formatBytes, formatCount } from '../train/format'
import { bytesOfTensors, toHost } from '../train/host_tensor'
import { RunFolder } from '../train/run_folder'
import { pruneSchema, quantiseSchema } from './config'
import { findEntry } from './entries'
import { lossOf, meanLoss } from './evaluate'
import { optionError, resolveOptions } from './options'
import { batchesOf, openModel, prepareDevice } from './training_run'

type Common = Pick<z.output<typeof pruneSchema>, 'run' | 'out' | 'batches' | 'evalTokens' | 'device' | 'threads' | 'json'>

/** Adapters into the weights, and away. Returns which techniques are done with. */
function mergeAdapters(model: TextModel): string[] {
  const done: string[] = []
  for (const [name, found, merge] of [['lora', loraLayers(model), mergeLoRA], ['ia3', ia3Layers(model), mergeIA3]] as const) {
    if (!found.size) continue
    merge(model)
    for (const { layer } of found.values()) {
      layer.adapter!.dispose()
      layer.adapter = null
    }
    done.push(name)
  }
  for (const parameter of model.parameters()) parameter.trainable = true
  return done
}

interface Sizes {
  parameters: number
  bytes: number
  loss: number
}

/** Opens the run, lets `change` make its model smaller, and writes what came of it. */
async function compress(
  command: string,
  options: Common,
  change: (model: TextModel, judge: { batches: Batch[]; loss(batch: Batch): Tensor }) => Promise<void> | void,
  stdout: Writable,
): Promise<number> {
  const { run, out, device: name, evalTokens, json } = options
  if (path.resolve(run) === path.resolve(out)) throw optionError(`--out ${out} is the run itself`, 'give another folder')
  const device = getDevice(name)
  const { model, config, tokenizer, folder, checkpoint } = await openModel(run, device)
  try {
    prepareDevice({ device: name, threads: options.threads ?? config.threads, memoryLimit: undefined })
    const merged = mergeAdapters(model)
    const dataset = await loadTextDataset({ ...config, tokenizer, evalTokens })
    const { entry } = await findEntry('model', config.model)
    const { data, evalData } = batchesOf(entry, dataset, config.seed)
    const batches = Array.from({ length: options.batches }, (_, i) => data.batch(i))
    const loss = (batch: Batch) => lossOf(model, batch, device)
    model.eval()
    const sizes = async (): Promise<Sizes> => {
      const tensors = [...model.state().values()]
      const packed = linearTargets(model).reduce((n, { layer }) => n + (layer.packed instanceof IntWeight ? layer.shape[0] * layer.shape[1] - sizeOf(layer.packed) : 0), 0)
      return { parameters: tensors.reduce((n, { size }) => n + size, 0) + packed, bytes: bytesOfTensors(tensors), loss: await meanLoss(model, evalData, device) }
    }
    const before = await sizes()
    await change(model, { batches, loss })
    const after = await sizes()
    const values = { ...folder.config.values, technique: config.technique.filter((text) => !merged.includes(text.split(':')[0])), out }
    const made = await RunFolder.create(out, { ...folder.config, values, structure: structureOf(model), compressed: true }, tokenizer)
    const host = await Promise.all([...model.state()].map(async ([key, value]) => [`model.${key}`, await toHost(value)] as const))
    await saveCheckpoint(made.checkpoints, checkpoint.step, { tensors: Object.fromEntries(host), state: checkpoint.state })
    if (json) stdout.write(`${JSON.stringify({ event: command, run, out, before, after })}\n`)
    else {
      const show = ({ parameters, bytes, loss: value }: Sizes) => `${formatCount(parameters)} parameters, ${formatBytes(bytes)}, validation loss ${value.toFixed(4)}`
      stdout.write(`before  ${show(before)}\nafter   ${show(after)}\nwritten to ${out}: sample --run ${out}, train --from ${out}\n`)
    }
    return 0
  } finally {
    model.dispose()
  }
}

/** Numbers that a packed matrix keeps: codes and scales. */
const sizeOf = (packed: IntWeight) => [...packed.state().values()].reduce((n, { size }) => n + size, 0)

export async function pruneCommand(flags: Record<string, unknown>, stdout: Writable = process.stdout): Promise<number> {
  const { values } = resolveOptions(pruneSchema, [{ origin: 'flag', values: flags }])
  const { layers, heads, units, sparsity, range, batches: count } = values
  if (layers === undefined && heads === undefined && units === undefined && !sparsity) {
    throw optionError('prune: nothing is to go', 'give --layers, --heads, --units or --sparsity')
  }
  if (count === 0 && (layers ?? heads ?? units) !== undefined) throw optionError('--batches 0: layers, heads and units are judged on batches', 'give 1 or more')
  return compress('prune', values, async (model, { batches, loss }) => {
    const prunable = model as unknown as PrunableModel
    if (!prunable.blocks) throw optionError(`--run ${values.run}: its model has no list of layers`, 'gpt, llama and bert have')
    if (layers !== undefined) {
      const scores = prunable.blocks.map(() => 0)
      for (const batch of batches) (await layerScores(model as never, () => loss(batch))).forEach((score, i) => (scores[i] += score))
      keepLayers(prunable, best(scores, layers))
    }
    if (heads !== undefined || units !== undefined) {
      shrink(prunable, await gateScores(prunable, batches.map((batch) => () => loss(batch))), { heads, units })
    }
    if (sparsity) for (const mask of pruneMagnitude(model, sparsity, range).values()) mask.dispose()
  }, stdout)
}

export async function quantiseCommand(flags: Record<string, unknown>, stdout: Writable = process.stdout): Promise<number> {
  const { values } = resolveOptions(quantiseSchema, [{ origin: 'flag', values: flags }])
  const { group, method, batches: count } = values
  const bits = Number(values.bits) as 8 | 4
  if (method === 'gptq' && count === 0) throw optionError('--batches 0: --method gptq corrects errors by what layers are given on batches', 'give 1 or more')
  return compress('quantise', values, async (model, { batches, loss }) => {
    const calibrate = () => batches.forEach((batch) => scope(() => void loss(batch)))
    if (method === 'gptq') await quantiseGptq(model, { bits, group, calibrate })
    else quantise(model, { bits, group, calibrate: count ? calibrate : undefined })
  }, stdout)
}
