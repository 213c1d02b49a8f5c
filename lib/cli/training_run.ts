// From options to a trainer that is ready: device, model, optimiser, schedule, techniques. Optimisers and techniques
// are found by their file's name (entries.ts).

import { checkCombination } from '../catalog/entry'
import type { TextDataset } from '../data/tokens'
import { GPT } from '../models/gpt'
import { addon } from '../native/binding'
import { decayGroups, type Optimizer } from '../optim/optimizer'
import { cosine } from '../optim/schedule'
import type { Technique } from '../techniques/technique'
import { getDevice, type Device } from '../tensor/device'
import { Generator } from '../tensor/random'
import { Trainer } from '../train/trainer'
import type { TrainConfig } from './config'
import { findEntry } from './entries'
import { optionError } from './options'
import type { TrainingRun } from './train'

/** Sets threads and memory limit, and gives the device. */
export function prepareDevice({
  device: name,
  threads,
  memoryLimit,
}: Pick<TrainConfig, 'device' | 'threads' | 'memoryLimit'>): Device {
  addon.setThreads(threads)
  const device = getDevice(name)
  if (memoryLimit !== undefined) device.setMemoryLimit(memoryLimit)
  return device
}

/** The model with its initialiser and with what the techniques change in it; the same for training and for sampling. */
export async function buildModel(config: TrainConfig, vocab: number, device: Device): Promise<{ model: GPT; techniques: Technique[] }> {
  if (config.model !== 'gpt') throw optionError(`--model ${config.model} is not a model`, 'the models are: gpt')
  const { context, layers, width, heads, kvHeads, norm, activation, positions, tiedHead, bias, dropout, seed } = config
  const techniques = await buildTechniques(config)
  const init = config.init === undefined ? undefined : await findEntry('initializer', config.init)
  const initializer = init?.entry.create(init.given)
  const generator = new Generator(seed)
  const model = new GPT(
    { vocab, context, layers, width, heads, kvHeads, norm, activation, positions, tiedHead, bias, dropout, ...initializer?.config },
    { device, generator },
  )
  initializer?.apply(model, generator)
  for (const technique of techniques) technique.adapt?.(model)
  return { model, techniques }
}

async function buildOptimizer(config: TrainConfig, model: GPT): Promise<Optimizer> {
  const { optimizer, weightDecay, beta1, beta2, eps } = config
  const { entry, given } = await findEntry('optimizer', optimizer)
  const flags = Object.entries({ beta1, beta2, eps }).filter(([, value]) => value !== undefined)
  return entry.create(decayGroups(model.namedParameters(), weightDecay), { ...Object.fromEntries(flags), ...given })
}

async function buildTechniques(config: TrainConfig): Promise<Technique[]> {
  const found = await Promise.all(config.technique.map((text) => findEntry('technique', text)))
  checkCombination(found.map(({ entry }) => entry))
  return found.map(({ entry, given }) => entry.create(given))
}

/** Measured FLOP/s of the CPU at that precision (f16 computes in f32); of other devices it is not known. */
function peakOf(device: Device, precision: TrainConfig['precision']): number | undefined {
  if (device.name !== 'cpu') return undefined
  const { f32Gflops, bf16Gflops } = addon.measurePeaks()
  return 1e9 * (precision === 'bf16' ? bf16Gflops : f32Gflops)
}

export async function startTraining(config: TrainConfig, data: TextDataset): Promise<TrainingRun> {
  const device = prepareDevice(config)
  const { model, techniques } = await buildModel(config, data.tokenizer.vocabSize, device)
  const { steps, lr, minLr, warmup, accumulate, evalEvery, clip, precision, seed } = config
  const trainer = new Trainer({
    model,
    optimizer: await buildOptimizer(config, model),
    schedule: cosine({ lr, minLr, warmup, steps }),
    data: data.train,
    evalData: data.validation,
    steps,
    accumulate,
    evalEvery,
    clip,
    precision,
    device,
    techniques,
    seed,
  })
  const peakFlops = config.json ? undefined : peakOf(device, precision) // shown to people only
  return {
    trainer,
    device: device.name,
    parameters: model.parameters().reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
    ...(peakFlops === undefined ? {} : { peakFlops }),
    dispose: () => model.dispose(),
  }
}
