// From options to a trainer that is ready: device, model, optimiser, schedule, techniques. Optimisers and techniques
// are found by their file's name (entries.ts).

import { checkCombination, checkNeeds } from '../catalog/entry'
import { MaskedTokens } from '../data/masked_tokens'
import type { TextDataset } from '../data/tokens'
import type { ModelEntry, TextModel } from '../models/model_entry'
import { addon } from '../native/binding'
import { decayGroups, type Optimizer } from '../optim/optimizer'
import { makeSchedule } from '../optim/schedule'
import { orderTechniques, type Technique } from '../techniques/technique'
import { getDevice, type Device } from '../tensor/device'
import { Generator } from '../tensor/random'
import { scope } from '../tensor/scope'
import { fromHost } from '../train/host_tensor'
import { applyStructure, type Structure } from '../train/compressed'
import { Trainer, type BatchSource, type EvaluationSource, type TrainerState } from '../train/trainer'
import type { TrainConfig } from './config'
import { findEntry } from './entries'
import { optionError } from './options'
import { openRun, type TrainingRun } from './train'

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
export async function buildModel(
  config: TrainConfig,
  vocab: number,
  device: Device,
  prepare: (model: TextModel, techniques: readonly Technique[]) => Promise<void> = async () => {},
): Promise<{ model: TextModel; entry: ModelEntry; techniques: Technique[] }> {
  const { entry, given } = await findEntry('model', config.model)
  if (Object.keys(given).length) throw optionError(`--model ${config.model}: a model has no settings there`, 'use --layers, --width and so on')
  const { context, layers, width, heads, kvHeads, norm, activation, positions, tiedHead, bias, dropout, seed } = config
  const techniques = await buildTechniques(config)
  const init = config.init === undefined ? undefined : await findEntry('initializer', config.init)
  const initializer = init?.entry.create(init.given)
  const generator = new Generator(seed)
  const shape = { context, layers, width, heads, kvHeads, norm, activation, positions, tiedHead, bias, dropout, ...initializer?.config }
  // One id more for the mask, which no tokenizer gives.
  const model = entry.create({ vocab: entry.objective === 'masked_token' ? vocab + 1 : vocab, ...shape }, { device, generator })
  initializer?.apply(model, generator)
  await prepare(model, techniques)
  for (const technique of orderTechniques(techniques)) technique.adapt?.(model)
  return { model, entry, techniques }
}

/** The model of a run folder as its newest checkpoint has it, with that run's tokenizer and options. */
export async function openModel(path: string, device: Device, onWarning?: (message: string) => void) {
  const { checkpoint, config, tokenizer, folder } = await openRun(path, onWarning)
  const { model, techniques } = await buildModel(config, tokenizer.vocabSize, device)
  const saved = (checkpoint.state as TrainerState).techniques
  for (const technique of techniques) technique.restore?.(model, saved[technique.name])
  const { structure } = folder.config
  if (structure) applyStructure(model, structure)
  scope(() => {
    const own = Object.entries(checkpoint.tensors).filter(([name]) => name.startsWith('model.'))
    model.loadState(new Map(own.map(([name, value]) => [name.slice('model.'.length), fromHost(value, device)])))
  })
  return { model, config, tokenizer, folder, checkpoint }
}

/** Models of other runs that a new one asks for: those of its techniques, and the one whose weights it starts from. */
async function prepareFrom({ from }: TrainConfig, device: Device, model: TextModel, techniques: readonly Technique[]): Promise<{ opened: TextModel[]; structure?: Structure }> {
  const opened: TextModel[] = []
  let structure: Structure | undefined
  const open = async (path: string) => {
    const other = await openModel(path, device)
    opened.push(other.model)
    return other
  }
  if (from !== undefined) {
    const other = await open(from)
    ;({ structure } = other.folder.config)
    if (structure) applyStructure(model, structure)
    model.loadState(other.model.state())
  }
  for (const technique of techniques) await technique.open?.({ openModel: async (path) => (await open(path)).model })
  return { opened, structure }
}

async function buildOptimizer(config: TrainConfig, model: TextModel): Promise<Optimizer> {
  const { optimizer, weightDecay, beta1, beta2, eps } = config
  const { entry, given } = await findEntry('optimizer', optimizer)
  const flags = Object.entries({ beta1, beta2, eps }).filter(([, value]) => value !== undefined)
  return entry.create(decayGroups(model.namedParameters(), weightDecay), { ...Object.fromEntries(flags), ...given })
}

async function buildTechniques(config: TrainConfig): Promise<Technique[]> {
  const found = await Promise.all(config.technique.map((text) => findEntry('technique', text)))
  const { entry: optimizer } = await findEntry('optimizer', config.optimizer)
  const init = config.init === undefined ? [] : [(await findEntry('initializer', config.init)).entry]
  const all = [...found.map(({ entry }) => entry), optimizer, ...init]
  checkCombination(all)
  checkNeeds(all)
  return found.map(({ entry, given }) => entry.create(given))
}

/** Measured FLOP/s of the CPU at that precision (f16 computes in f32); of other devices it is not known. */
function peakOf(device: Device, precision: TrainConfig['precision']): number | undefined {
  if (device.name !== 'cpu') return undefined
  const { f32Gflops, bf16Gflops } = addon.measurePeaks()
  return 1e9 * (precision === 'bf16' ? bf16Gflops : f32Gflops)
}

/** What a model of this kind is trained and evaluated on. */
export function batchesOf({ objective }: ModelEntry, { tokenizer, train, validation }: TextDataset, seed: number): { data: BatchSource; evalData: EvaluationSource } {
  if (objective === 'next_token') return { data: train, evalData: validation }
  const mask = { maskId: tokenizer.vocabSize, vocab: tokenizer.vocabSize, seed }
  return { data: new MaskedTokens(train, mask), evalData: new MaskedTokens(validation, mask) }
}

export async function startTraining(config: TrainConfig, data: TextDataset): Promise<TrainingRun> {
  const device = prepareDevice(config)
  const vocab = data.tokenizer.vocabSize
  let from: Awaited<ReturnType<typeof prepareFrom>> = { opened: [] }
  const { model, entry, techniques } = await buildModel(config, vocab, device, async (...built) => {
    from = await prepareFrom(config, device, ...built)
  })
  const { schedule, steps, lr, minLr, warmup, accumulate, evalEvery, clip, precision, seed } = config
  const masked = entry.objective === 'masked_token'
  const optimizer = await buildOptimizer(config, model)
  const trainer = new Trainer({
    model,
    optimizer,
    schedule: makeSchedule(schedule, { lr, minLr, warmup, steps }),
    ...batchesOf(entry, data, seed),
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
    masked,
    ...(from.structure ? { structure: from.structure } : {}),
    parameters: model.parameters().reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
    ...(peakFlops === undefined ? {} : { peakFlops }),
    dispose: () => {
      optimizer.dispose()
      for (const each of [model, ...from.opened]) each.dispose()
    },
  }
}
