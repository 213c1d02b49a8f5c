// The options of `leanformer train`, once: flags, --config files and run folders all go through this schema.
// Precedence: flag, then config file, then the run that is resumed, then default.

import { readFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'

import { z } from 'zod'

import { bytesOf } from '../catalog/bytes'
import { describeOptions, nameOf, optionError, resolveOptions, type Layer, type Resolved } from './options'

const count = (max = Number.MAX_SAFE_INTEGER) => z.int().min(1).max(max)
const positive = () => z.number().gt(0)
const fraction = () => z.number().min(0).lt(1)

const byteCount = z.union([z.int().min(1), z.string()]).transform((value, context) => {
  const bytes = bytesOf(String(value))
  if (bytes !== null) return bytes
  context.addIssue({ code: 'custom', message: 'not a number of bytes' })
  return z.NEVER
})

export const trainSchema = z.strictObject({
  text: z
    .string()
    .min(1)
    .default('moby-dick')
    .meta({ help: 'UTF-8 text file, or a dataset by name: moby-dick', value: 'path' }),
  tokenizer: z
    .string()
    .min(1)
    .default('bytes')
    .meta({ help: 'bytes, chars, or a Hugging Face tokenizer.json', value: 'path' }),

  model: z.string().min(1).default('gpt').meta({ help: 'architecture: gpt, llama, bert', value: 'name' }),
  layers: count(10_000).default(4).meta({ help: 'transformer blocks' }),
  width: count(1_000_000).default(128).meta({ help: "size of a token's vector; a multiple of heads" }),
  heads: count(10_000).default(4).meta({ help: 'attention heads' }),
  kvHeads: count(10_000).optional().meta({ help: 'heads of keys and values; divides heads; default: heads' }),
  context: count().default(128).meta({ help: 'tokens in a window' }),
  norm: z
    .enum(['layer_norm', 'rms_norm'])
    .optional()
    .meta({ help: "normalisation; default: the model's own, layer_norm in gpt", value: 'name' }),
  activation: z
    .enum(['gelu', 'gelu_exact', 'swiglu', 'silu', 'relu'])
    .optional()
    .meta({ help: "of the feed-forward part; default: the model's own, gelu in gpt", value: 'name' }),
  positions: z
    .enum(['learned', 'rotary', 'alibi', 'none'])
    .optional()
    .meta({ help: "position encoding; default: the model's own, learned in gpt", value: 'name' }),
  tiedHead: z
    .boolean()
    .optional()
    .meta({ help: "the head shares the weights of the token embedding; default: the model's own, as in gpt" }),
  bias: z
    .boolean()
    .optional()
    .meta({ help: "biases in linear and normalisation layers; default: the model's own, none in gpt" }),
  dropout: fraction().default(0).meta({ help: 'probability of zeroing an activation', value: 'p' }),

  batch: count().default(12).meta({ help: 'windows in a micro-batch' }),
  accumulate: count().default(1).meta({ help: 'micro-batches in a step' }),
  steps: count().default(2000).meta({ help: 'optimiser steps in the whole run', resumable: true }),

  optimizer: z
    .string()
    .min(1)
    .default('adamw')
    .meta({ help: 'with settings: lamb:beta2=0.98; see `leanformer techniques`', value: 'name' }),
  init: z
    .string()
    .min(1)
    .optional()
    .meta({ help: "initialiser of the model; default: the model's own", value: 'name' }),
  schedule: z
    .string()
    .min(1)
    .default('cosine')
    .meta({ help: 'of the learning rate: constant, cosine, linear, inverse_sqrt, or wsd:decay=0.2,shape=sqrt', value: 'name' }),
  from: z
    .string()
    .min(1)
    .optional()
    .meta({ help: 'run folder whose weights the model starts from, of the same shape; default: none', value: 'dir' }),
  lr: positive().default(1e-3).meta({ help: 'highest learning rate', value: 'rate' }),
  minLr: z
    .number()
    .min(0)
    .optional()
    .meta({ help: 'learning rate at the end of the schedule; default: lr / 10', value: 'rate' }),
  warmup: z.int().min(0).optional().meta({ help: 'steps of linear warm-up; default: 5 % of steps, at most 100' }),
  weightDecay: z.number().min(0).default(0.1).meta({ help: 'decoupled, on matrices only', value: 'rate' }),
  beta1: fraction().optional().meta({ help: "the optimizer's setting of that name; default: its own", value: 'b' }),
  beta2: fraction().optional().meta({ help: "the optimizer's setting of that name; default: its own", value: 'b' }),
  eps: positive().optional().meta({ help: "the optimizer's setting of that name; default: its own", value: 'e' }),
  clip: z.number().min(0).default(1).meta({ help: 'largest global gradient norm; 0: no clipping', value: 'norm' }),
  technique: z
    .array(z.string().min(1))
    .default([])
    .meta({ help: 'with settings: sam:rho=0.05; may be given more than once', value: 'name' }),

  precision: z
    .enum(['f32', 'bf16', 'f16'])
    .default('f32')
    .meta({ help: 'dtype of the computation; weights are kept in f32', value: 'dtype' }),
  device: z
    .string()
    .regex(/^(auto|cpu|meta|cuda(:\d+)?)$/)
    .default('auto')
    .meta({ help: 'auto, cpu, cuda, cuda:1, or meta: a forecast only', value: 'name', resumable: true }),
  threads: count(4096).optional().meta({ help: 'CPU threads; default: all cores', resumable: true }),
  memoryLimit: byteCount
    .optional()
    .meta({ help: 'limit of tensor memory, such as 4GiB; default: none', value: 'bytes', resumable: true }),
  seed: z.int().min(0).default(1337).meta({ help: 'of weights, data order and dropout' }),

  evalEvery: count().default(250).meta({ help: 'steps between evaluations; the last step has one', resumable: true }),
  evalTokens: count().optional().meta({ help: 'validation tokens an evaluation reads; default: all', resumable: true }),
  saveEvery: count()
    .optional()
    .meta({ help: 'steps between checkpoints; default: eval-every; the last step has one', resumable: true }),
  out: z.string().min(1).optional().meta({ help: 'run folder; default: runs/ and the time', value: 'dir' }),
  resume: z
    .string()
    .min(1)
    .optional()
    .meta({ help: 'run folder to go on with', value: 'dir', resumable: true, flagOnly: true }),
  json: z
    .boolean()
    .default(false)
    .meta({ help: 'one JSON object a step on stdout, and nothing else there', resumable: true }),
  config: z.string().min(1).optional().meta({
    help: 'JSON file with any of these options, in camelCase',
    value: 'file',
    resumable: true,
    flagOnly: true,
  }),
})

export const sampleSchema = z.strictObject({
  run: z.string().min(1).meta({ help: 'run folder of the model; must be given, no default', value: 'dir' }),
  prompt: z.string().min(1).default('\n').meta({ help: 'text to go on from', value: 'text' }),
  tokens: count().default(300).meta({ help: 'tokens to add' }),
  temperature: z.number().min(0).default(0.8).meta({ help: '0: always the most likely token', value: 't' }),
  topK: z.int().min(0).default(0).meta({ help: 'only the k most likely tokens; 0: all', value: 'k' }),
  topP: z
    .number()
    .gt(0)
    .max(1)
    .default(1)
    .meta({ help: 'only the most likely tokens of that total probability', value: 'p' }),
  seed: z.int().min(0).default(1337).meta({ help: 'of the choices' }),
  device: z
    .string()
    .regex(/^(auto|cpu|cuda(:\d+)?)$/)
    .default('auto')
    .meta({ help: 'auto, cpu, cuda, cuda:1', value: 'name' }),
  threads: count(4096).optional().meta({ help: 'CPU threads; default: those of the run' }),
})

const compressOptions = {
  run: z.string().min(1).meta({ help: 'run folder of the model; must be given, no default', value: 'dir' }),
  out: z.string().min(1).meta({ help: 'run folder of the smaller model, for sample and train --from; must be given, no default', value: 'dir' }),
  batches: z.int().min(0).default(8).meta({ help: "micro-batches of the run's text to judge by" }),
  evalTokens: count().default(16_384).meta({ help: 'validation tokens of the losses that are shown' }),
  device: z.string().regex(/^(auto|cpu|cuda(:\d+)?)$/).default('auto').meta({ help: 'auto, cpu, cuda, cuda:1', value: 'name' }),
  threads: count(4096).optional().meta({ help: 'CPU threads; default: those of the run' }),
  json: z.boolean().default(false).meta({ help: 'one JSON object on stdout' }),
}

export const pruneSchema = z.strictObject({
  ...compressOptions,
  layers: count().optional().meta({ help: 'layers that stay; those that turn the hidden state least go; default: all' }),
  heads: count().optional().meta({ help: 'heads that stay in each layer, by the gradient of a gate on each; default: all' }),
  units: count().optional().meta({ help: 'feed-forward units that stay in each layer, by the same; default: all' }),
  sparsity: fraction().default(0).meta({ help: 'share of the smallest weights of the matrices set to 0', value: 'share' }),
  range: z.enum(['global', 'layer']).default('global').meta({ help: 'rank weights of all matrices together, or within each', value: 'name' }),
})

export const quantiseSchema = z.strictObject({
  ...compressOptions,
  bits: z.enum(['8', '4']).default('8').meta({ help: 'of each weight', value: 'n' }),
  group: z.int().min(0).default(0).meta({ help: 'weights of a row that share a scale; 0: the whole row' }),
  method: z.enum(['scales', 'gptq']).default('scales').meta({ help: 'what batches are for: scales that suit them, or GPTQ, which passes the error of each weight on to others', value: 'name' }),
})

export const kernelsSchema = z.strictObject({
  run: z.string().min(1).meta({ help: 'run folder of the model; must be given, no default', value: 'dir' }),
  out: z.string().min(1).optional().meta({ help: 'run folder of the model with the chosen kernels, for sample and train --resume; default: none is written', value: 'dir' }),
  kernel: z
    .array(z.string().min(1))
    .default(['window', 'linear', 'favor', 'int8'])
    .meta({ help: 'beside softmax, also such as window32 and favor64; may be given more than once', value: 'name' }),
  window: count().default(64).meta({ help: 'tokens that window sees' }),
  features: count().default(256).meta({ help: 'random features of favor' }),
  stretches: count(64).default(1).meta({ help: "parts of the context whose queries have a kernel of their own; more than 1 for models that see no later token" }),
  limit: z.number().min(0).default(0.01).meta({ help: 'highest rise of the validation loss', value: 'nats' }),
  cost: z.enum(['seconds', 'flops']).default('seconds').meta({ help: 'what is to be saved: time of attention on the device, or its FLOPs', value: 'name' }),
  points: count(1000).default(8).meta({ help: 'of the frontier that are measured with the whole model' }),
  repeats: count(1000).default(7).meta({ help: 'of each timing; the median counts' }),
  batches: count().default(8).meta({ help: "micro-batches of the run's training text that single kernels are judged by" }),
  evalTokens: count().default(16_384).meta({ help: 'validation tokens of the losses of whole assignments' }),
  device: z.string().regex(/^(auto|cpu|cuda(:\d+)?)$/).default('auto').meta({ help: 'auto, cpu, cuda, cuda:1', value: 'name' }),
  threads: count(4096).optional().meta({ help: 'CPU threads; default: those of the run' }),
  json: z.boolean().default(false).meta({ help: 'one JSON object on stdout' }),
})

export const infoSchema = z.strictObject({
  json: z.boolean().default(false).meta({ help: 'one JSON object on stdout' }),
})

export const techniquesSchema = z.strictObject({
  json: z.boolean().default(false).meta({ help: 'one JSON object on stdout' }),
})

type Parsed = z.output<typeof trainSchema>

/** With the defaults that depend on other options filled in. */
export type TrainConfig = Parsed &
  Required<Pick<Parsed, 'kvHeads' | 'minLr' | 'warmup' | 'threads' | 'saveEvery' | 'out'>>

export type ResolvedTrainConfig = Resolved<TrainConfig>

export interface TrainSources {
  /** What was given on the command line, and nothing else. */
  flags: Record<string, unknown>
  file?: { name: string; values: Record<string, unknown> }
  /** Config of the run that is resumed. */
  run?: { name: string; values: Record<string, unknown> }
  now?: Date
}

export function resolveTrainConfig({ flags, file, run, now = new Date() }: TrainSources): ResolvedTrainConfig {
  const layers: Layer[] = [
    ...(run ? [{ origin: 'run' as const, ...run }] : []),
    ...(file ? [{ origin: 'file' as const, ...file }] : []),
    { origin: 'flag', values: flags },
  ]
  const resolved = resolveOptions(trainSchema, layers)
  if (run) checkResume(run, layers.slice(1))
  const { values: v, origins, name } = resolved
  const stamp = now.toISOString().slice(0, 19).replace(/[-:]/g, '').replace('T', '-')
  const values: TrainConfig = {
    ...v,
    kvHeads: v.kvHeads ?? v.heads,
    minLr: v.minLr ?? v.lr / 10,
    warmup: v.warmup ?? Math.min(100, Math.floor(v.steps / 20)),
    threads: v.threads ?? availableParallelism(),
    saveEvery: v.saveEvery ?? v.evalEvery,
    out: v.out ?? `runs/${stamp}`,
  }
  checkTogether(values, name)
  return { values, origins, name }
}

/** Options that contradict each other; the error names both. */
function checkTogether(v: TrainConfig, name: (key: string) => string): void {
  const refuse = (a: keyof TrainConfig, b: keyof TrainConfig, why: string, hint: string): never => {
    throw optionError(`${name(a)} ${String(v[a])} and ${name(b)} ${String(v[b])}: ${why}`, hint)
  }
  if (v.width % v.heads !== 0) {
    const multiple = Math.ceil(v.width / v.heads) * v.heads
    refuse('width', 'heads', 'width is not a multiple of heads', `give a width such as ${multiple}`)
  }
  if (v.heads % v.kvHeads !== 0)
    refuse('heads', 'kvHeads', 'kv-heads does not divide heads', `give a divisor of ${v.heads}`)
  if (v.positions === 'rotary' && (v.width / v.heads) % 2 !== 0) {
    refuse(
      'positions',
      'width',
      `rotary positions need an even head size, not ${v.width / v.heads}`,
      'change width or heads',
    )
  }
  if (v.warmup > v.steps) refuse('warmup', 'steps', 'the warm-up is longer than the run', `give at most ${v.steps}`)
  if (v.minLr > v.lr) refuse('minLr', 'lr', 'the lowest learning rate is above the highest', `give at most ${v.lr}`)
}

/** A resumed run keeps what decides its numbers: only options marked `resumable` may differ. */
function checkResume(run: { name: string; values: Record<string, unknown> }, layers: readonly Layer[]): void {
  const options = new Map(describeOptions(trainSchema).map((option) => [option.key, option]))
  for (const layer of layers) {
    for (const [key, value] of Object.entries(layer.values)) {
      const before = run.values[key]
      if (value === undefined || options.get(key)!.resumable || JSON.stringify(before) === JSON.stringify(value))
        continue
      throw optionError(
        `${nameOf(key, layer)} ${String(value)} and --resume ${run.name}: that run has ${key} ${String(before)}`,
        `leave it out to go on with that run, or start a new one without --resume`,
      )
    }
  }
}

/** Reads a JSON file of options. */
export async function readConfigFile(path: string): Promise<{ name: string; values: Record<string, unknown> }> {
  let values: unknown
  try {
    values = JSON.parse(await readFile(path, 'utf8'))
  } catch (error) {
    throw optionError(`--config ${path} cannot be read: ${(error as Error).message}`, 'give a JSON file')
  }
  if (typeof values !== 'object' || values === null || Array.isArray(values)) {
    throw optionError(`--config ${path} is not a JSON object`, 'such as {"layers": 6, "width": 384}')
  }
  return { name: path, values: values as Record<string, unknown> }
}
