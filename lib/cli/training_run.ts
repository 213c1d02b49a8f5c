// From options to a trainer that is ready: device, model, optimiser, schedule, techniques. Optimisers and techniques
// are found by their file's name, so that a new one is not listed anywhere.

import type { TextDataset } from '../data/tokens'
import { GPT } from '../models/gpt'
import { addon } from '../native/binding'
import { LeanformerError } from '../native/errors'
import { decayGroups, Optimizer, type ParameterGroup } from '../optim/optimizer'
import { cosine } from '../optim/schedule'
import type { Technique } from '../techniques/technique'
import { getDevice, type Device } from '../tensor/device'
import { Generator } from '../tensor/random'
import { Trainer } from '../train/trainer'
import type { TrainConfig } from './config'
import { optionError } from './options'
import type { TrainingRun } from './train'

type OptimizerClass = new (groups: ParameterGroup[], options: Record<string, number>) => Optimizer

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

export function buildModel(config: TrainConfig, vocab: number, device: Device): GPT {
  if (config.model !== 'gpt') throw optionError(`--model ${config.model} is not a model`, 'the models are: gpt')
  const { context, layers, width, heads, kvHeads, norm, activation, positions, tiedHead, bias, dropout, seed } = config
  return new GPT(
    { vocab, context, layers, width, heads, kvHeads, norm, activation, positions, tiedHead, bias, dropout },
    { device, generator: new Generator(seed) },
  )
}

/** A class or function of a module in a folder, by the file's name. */
async function findByName<T>(
  kind: string,
  name: string,
  load: () => Promise<Record<string, unknown>>,
  isIt: (value: unknown) => value is T,
): Promise<T> {
  const wrong = (cause?: unknown) =>
    new LeanformerError(
      'ERR_OPTION',
      `--${kind} ${name} is not here`,
      `see leanformer train --help for what --${kind} can be`,
      { cause },
    )
  if (!/^[a-z][a-z0-9_]*$/.test(name)) throw wrong()
  let exports
  try {
    exports = await load() // in the bundle an unknown name throws at once, elsewhere it rejects
  } catch (cause) {
    throw wrong(cause)
  }
  const found = Object.values(exports).find(isIt)
  if (found === undefined) throw wrong()
  return found
}

async function buildOptimizer(config: TrainConfig, model: GPT): Promise<Optimizer> {
  const { optimizer: name, weightDecay, beta1, beta2, eps } = config
  const isClass = (value: unknown): value is OptimizerClass =>
    typeof value === 'function' && (value.prototype as unknown) instanceof Optimizer
  const load = () => import(`../optim/${name}.ts`) as Promise<Record<string, unknown>>
  const Found = await findByName('optimizer', name, load, isClass)
  return new Found(decayGroups(model.namedParameters(), weightDecay), { beta1, beta2, eps, momentum: beta1 })
}

async function buildTechnique(name: string): Promise<Technique> {
  const isFactory = (value: unknown): value is () => Technique => typeof value === 'function'
  const load = () => import(`../techniques/${name}.ts`) as Promise<Record<string, unknown>>
  return (await findByName('technique', name, load, isFactory))()
}

/** Measured FLOP/s of the CPU at that precision (f16 computes in f32); of other devices it is not known. */
function peakOf(device: Device, precision: TrainConfig['precision']): number | undefined {
  if (device.name !== 'cpu') return undefined
  const { f32Gflops, bf16Gflops } = addon.measurePeaks()
  return 1e9 * (precision === 'bf16' ? bf16Gflops : f32Gflops)
}

export async function startTraining(config: TrainConfig, data: TextDataset): Promise<TrainingRun> {
  const device = prepareDevice(config)
  const model = buildModel(config, data.tokenizer.vocabSize, device)
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
    techniques: await Promise.all(config.technique.map(buildTechnique)),
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
