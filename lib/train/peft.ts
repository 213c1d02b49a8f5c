// Adapters in the format of the peft library: adapter_config.json beside adapter_model.safetensors, for LoRA (rsLoRA,
// DoRA), IA3, prompt and prefix tuning. Loading gives the model the adapters that the configuration asks for and fills
// them; a tensor that is missing or left over is an error that names it.
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { noGrad } from '../autograd/tape'
import { checkNames } from '../models/huggingface'
import { foreignNamesOf, namedMatrices, type NamedMatrix } from '../models/foreign_names'
import { GPT } from '../models/gpt'
import { LeanformerError } from '../native/errors'
import { LowRank } from '../nn/low_rank'
import type { Module } from '../nn/module'
import { type Parameter } from '../nn/parameter'
import { Rescale } from '../nn/rescale'
import { concat } from '../ops/concat'
import { reshape } from '../ops/reshape'
import { slice } from '../ops/slice'
import { addIA3 } from '../techniques/ia3'
import { addLoRA } from '../techniques/lora'
import { addPrefix, attentionLayers } from '../techniques/prefix_tuning'
import { addPrompt } from '../techniques/prompt_tuning'
import { keep, scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { readTensors, writeTensors } from './pretrained'

type AnyModel = Module<never, unknown>
type Config = Record<string, unknown>

export interface SavePeftOptions {
  /** Name or path of the model under the adapters, kept in the configuration. */
  baseModel?: string
  /** Such as CAUSAL_LM (default), SEQ_CLS. */
  taskType?: string
  /** Layers trained in full, saved with the adapters: last names, such as classifier. */
  modulesToSave?: readonly string[]
}

/** One tensor of the file: where it lies in the model, and its shape there. */
interface Slot {
  name: string
  parameter: Parameter
  shape: readonly number[]
}

const kRoot = 'base_model.model.'
const lastName = (name: string) => name.split('.').at(-1)!

/** Writes the adapters of a model. @throws ERR_ARGUMENT for a model without any, or merged ones */
export async function savePeft(folder: string, model: AnyModel, options: SavePeftOptions = {}): Promise<void> {
  const { baseModel = null, taskType = 'CAUSAL_LM', modulesToSave = [] } = options
  const kind = kindOf(model)
  const config: Config = {
    ...describe(kind, model),
    peft_type: kind,
    base_model_name_or_path: baseModel,
    task_type: taskType,
    inference_mode: true,
    ...(kind === 'LORA' || kind === 'IA3' ? { modules_to_save: modulesToSave.length ? modulesToSave : null } : {}),
  }
  const tensors = scope(() =>
    noGrad(() => {
      if (kind === 'PREFIX_TUNING') return new Map([['prompt_embeddings', keep(joinPrefix(model))]])
      return new Map(slots(kind, model, modulesToSave).map(({ name, parameter, shape }) => [name, keep(parameter.tensor.viewAs([...shape]))]))
    }),
  )
  try {
    await mkdir(folder, { recursive: true })
    await writeTensors(join(folder, 'adapter_model.safetensors'), tensors)
    const sorted = Object.fromEntries(Object.entries(config).sort(([a], [b]) => (a < b ? -1 : 1)))
    await writeFile(join(folder, 'adapter_config.json'), `${JSON.stringify(sorted, null, 2)}\n`)
  } finally {
    for (const value of tensors.values()) value.dispose()
  }
}

export interface LoadPeftOptions {
  /** Called for each key of the configuration that is not known and therefore ignored. */
  onWarning?: (message: string) => void
}

/**
 * Gives a model without adapters those of a folder, and freezes what is not in it.
 * @throws ERR_CHECKPOINT for tensors that are missing, left over or misshapen; ERR_ARGUMENT for what is not implemented
 */
export async function loadPeft(folder: string, model: AnyModel, { onWarning = () => {} }: LoadPeftOptions = {}): Promise<void> {
  const config = await readConfig(join(folder, 'adapter_config.json'))
  checkConfig(config, onWarning)
  const device = model.parameters()[0].tensor.device
  const { tensors } = await readTensors(join(folder, 'adapter_model.safetensors'), device)
  try {
    const kind = attach(model, config)
    const hint = 'the file must come from a model of the same shape and with the same adapters'
    if (kind === 'PREFIX_TUNING') {
      checkNames(folder, ['prompt_embeddings'], [...tensors.keys()], hint)
      scope(() => noGrad(() => splitPrefix(model, tensors.get('prompt_embeddings')!)))
      return
    }
    const wanted = slots(kind, model, (config.modules_to_save as string[] | null) ?? [])
    checkNames(folder, wanted.map(({ name }) => name), [...tensors.keys()], hint)
    for (const { name, shape } of wanted) {
      const found = tensors.get(name)!.shape
      if (found.join() === shape.join()) continue
      throw new LeanformerError('ERR_CHECKPOINT', `${folder}: ${name} has shape [${found.join(', ')}], needs [${shape.join(', ')}]`, hint)
    }
    scope(() => {
      for (const { name, parameter } of wanted) {
        parameter.set(tensors.get(name)!.viewAs(parameter.shape))
        parameter.trainable = true
      }
    })
  } finally {
    for (const value of tensors.values()) value.dispose()
  }
}

type Kind = 'LORA' | 'IA3' | 'PROMPT_TUNING' | 'PREFIX_TUNING'

function kindOf(model: AnyModel): Kind {
  const matrices = namedMatrices(model)
  const merged = matrices.find(({ layer: { adapter } }) => (adapter instanceof LowRank || adapter instanceof Rescale) && adapter.merged)
  if (merged) throw new LeanformerError('ERR_ARGUMENT', `peft: the adapter of ${merged.path} is merged into its weight`, 'unmerge before saving')
  if (matrices.some(({ layer }) => layer.adapter instanceof LowRank)) return 'LORA'
  if (matrices.some(({ layer }) => layer.adapter instanceof Rescale)) return 'IA3'
  if ((model as unknown) instanceof GPT && (model as unknown as GPT).prompt) return 'PROMPT_TUNING'
  if (attentionLayers(model)[0]?.prefix) return 'PREFIX_TUNING'
  throw new LeanformerError('ERR_ARGUMENT', 'peft: the model has no adapter that this format knows', 'LoRA, IA3, prompt and prefix tuning have one')
}

/** The adapter's part for a matrix, if it has one. */
function partOf<T extends { rows: { name: string } }>(parts: readonly T[], { part }: NamedMatrix): T | undefined {
  return parts.find(({ rows }) => rows.name === part.name)
}

function slots(kind: Kind, model: AnyModel, modulesToSave: readonly string[]): Slot[] {
  if (kind === 'PROMPT_TUNING') {
    const prompt = (model as unknown as GPT).prompt!
    return [{ name: 'prompt_embeddings', parameter: prompt, shape: prompt.shape }]
  }
  const found: Slot[] = []
  for (const matrix of namedMatrices(model)) {
    const { adapter } = matrix.layer
    const at = `${kRoot}${matrix.name}`
    if (adapter instanceof LowRank) {
      const part = partOf(adapter.parts, matrix)
      if (!part) continue
      const { a, b, magnitude } = part
      found.push({ name: `${at}.lora_A.weight`, parameter: a, shape: a.shape }, { name: `${at}.lora_B.weight`, parameter: b, shape: b.shape })
      if (magnitude) found.push({ name: `${at}.lora_magnitude_vector`, parameter: magnitude, shape: magnitude.shape })
    } else if (adapter instanceof Rescale) {
      const part = partOf(adapter.parts, matrix)
      if (!part) continue
      const size = part.factors.tensor.size
      found.push({ name: `${at}.ia3_l`, parameter: part.factors, shape: part.ofInputs ? [1, size] : [size, 1] })
    }
  }
  const parameters = model.namedParameters()
  for (const { ours, theirs } of foreignNamesOf(model) ?? []) {
    const [name] = theirs
    const saved = theirs.length === 1 && modulesToSave.includes(lastName(name.replace(/\.(weight|bias)$/, '')))
    if (saved) found.push({ name: `${kRoot}${name}`, parameter: parameters.get(ours)!, shape: parameters.get(ours)!.shape })
  }
  return found
}

/** What the configuration says of the adapters that a model has. */
function describe(kind: Kind, model: AnyModel): Config {
  const matrices = namedMatrices(model)
  const unique = (names: string[]) => [...new Set(names)].sort()
  if (kind === 'LORA') {
    const own = matrices.flatMap((matrix) => {
      const { adapter } = matrix.layer
      const part = adapter instanceof LowRank ? partOf(adapter.parts, matrix) : undefined
      return part ? [{ matrix, part, options: part.options }] : []
    })
    const { rank, alpha = rank, dropout = 0, rankStabilised = false, magnitudes = false } = own[0].options
    const differing = <T>(pick: (options: (typeof own)[number]['options']) => T, usual: T) =>
      Object.fromEntries(own.filter(({ options }) => pick(options) !== usual).map(({ matrix, options }) => [matrix.name, pick(options)]))
    return {
      target_modules: targetModules(matrices, own.map(({ matrix }) => matrix)),
      r: rank,
      lora_alpha: alpha,
      lora_dropout: dropout,
      use_rslora: rankStabilised,
      use_dora: magnitudes,
      rank_pattern: differing((o) => o.rank, rank),
      alpha_pattern: differing((o) => o.alpha ?? o.rank, alpha),
      bias: 'none',
      fan_in_fan_out: false,
      init_lora_weights: true,
    }
  }
  if (kind === 'IA3') {
    const own = matrices.filter((matrix) => matrix.layer.adapter instanceof Rescale && partOf(matrix.layer.adapter.parts, matrix))
    const inputs = own.filter((matrix) => partOf((matrix.layer.adapter as Rescale).parts, matrix)!.ofInputs)
    return {
      target_modules: targetModules(matrices, own),
      feedforward_modules: unique(inputs.map(({ name }) => lastName(name))),
      fan_in_fan_out: false,
      init_ia3_weights: true,
    }
  }
  const layers = attentionLayers(model)
  const width = kind === 'PREFIX_TUNING' ? layers[0].kvHeads * layers[0].headWidth : (model as unknown as GPT).config.width
  return {
    num_virtual_tokens: kind === 'PREFIX_TUNING' ? layers[0].prefix!.length : (model as unknown as GPT).prompt!.shape[0],
    num_layers: layers.length,
    num_attention_heads: kind === 'PREFIX_TUNING' ? layers[0].kvHeads : layers[0].heads,
    num_transformer_submodules: 1,
    token_dim: width,
    ...(kind === 'PREFIX_TUNING' ? { encoder_hidden_size: width, prefix_projection: false } : { prompt_tuning_init: 'RANDOM' }),
  }
}

/** Last names where they mean just these matrices, whole names otherwise. */
function targetModules(all: readonly NamedMatrix[], chosen: readonly NamedMatrix[]): string[] {
  const short = new Set(chosen.map(({ name }) => lastName(name)))
  const meant = all.filter(({ name }) => short.has(lastName(name)))
  return meant.length === chosen.length ? [...short].sort() : chosen.map(({ name }) => name)
}

/** A list matches whole names or their ends, a text is a regular expression for the whole name. */
function matches(pattern: unknown, name: string, isHead: boolean): boolean {
  if (pattern === 'all-linear') return !isHead
  if (typeof pattern === 'string') return new RegExp(`^(?:${pattern})$`).test(name)
  return (pattern as string[]).some((each) => name === each || name.endsWith(`.${each}`))
}

/** Gives the model the adapters that a configuration describes. */
function attach(model: AnyModel, config: Config): Kind {
  const kind = config.peft_type as Kind
  if (kind === 'PROMPT_TUNING') {
    addPrompt(model, { length: config.num_virtual_tokens as number })
    return kind
  }
  if (kind === 'PREFIX_TUNING') {
    if (config.prefix_projection) throw new LeanformerError('ERR_ARGUMENT', 'peft: prefix_projection is not supported', 'save the prefix without its projection')
    addPrefix(model, { length: config.num_virtual_tokens as number })
    return kind
  }
  const matrices = namedMatrices(model)
  const heads = /(^|\.)(lm_head|classifier|pre_classifier|head)$/
  const chosen = matrices.filter(({ name }) => matches(config.target_modules, name, heads.test(name)))
  if (!chosen.length) {
    throw new LeanformerError('ERR_CHECKPOINT', `peft: target_modules ${JSON.stringify(config.target_modules)} names no layer of the model`, `its layers are ${[...new Set(matrices.map(({ name }) => lastName(name)))].join(', ')}`)
  }
  const of = (path: string, part: { name: string }) => chosen.find((matrix) => matrix.path === path && matrix.part.name === part.name)
  if (kind === 'IA3') {
    const inputs = (name: string) => matches(config.feedforward_modules ?? [], name, false)
    addIA3(model, { select: (path, part) => of(path, part) !== undefined, ofInputs: (path, part) => inputs(of(path, part)!.name) })
    return kind
  }
  const pattern = (table: unknown, name: string) => {
    const found = Object.entries((table as Record<string, number> | null) ?? {}).find(([key]) => new RegExp(`^(?:.*\\.)?(?:${key})$`).test(name))
    return found?.[1]
  }
  const rank = config.r as number | undefined ?? 8
  addLoRA(model, {
    rank,
    alpha: (config.lora_alpha as number | undefined) ?? 8,
    dropout: (config.lora_dropout as number | undefined) ?? 0,
    rankStabilised: (config.use_rslora as boolean | undefined) ?? false,
    magnitudes: (config.use_dora as boolean | undefined) ?? false,
    targets: (path, part) => of(path, part) !== undefined,
    own: (path, part) => {
      const { name } = of(path, part)!
      const [ownRank, ownAlpha] = [pattern(config.rank_pattern, name), pattern(config.alpha_pattern, name)]
      return { ...(ownRank === undefined ? {} : { rank: ownRank }), ...(ownAlpha === undefined ? {} : { alpha: ownAlpha }) }
    },
  })
  return kind
}

/** [n, 2 L d]: for each layer its keys, then its values. */
function joinPrefix(model: AnyModel): Tensor {
  const parts = attentionLayers(model).flatMap(({ prefix }) => [prefix!.keys.tensor, prefix!.values.tensor])
  const flat = parts.map((part) => reshape(part, [part.shape[0], part.shape[1] * part.shape[2]]))
  return concat(flat, 1)
}

function splitPrefix(model: AnyModel, whole: Tensor): void {
  const layers = attentionLayers(model)
  const { length } = layers[0].prefix!
  const size = layers[0].kvHeads * layers[0].headWidth
  if (whole.shape.join() !== [length, 2 * layers.length * size].join()) {
    throw new LeanformerError('ERR_CHECKPOINT', `peft: prompt_embeddings has shape [${whole.shape.join(', ')}], needs [${length}, ${2 * layers.length * size}]`, 'the file must come from a model of the same shape')
  }
  for (const [i, { prefix, kvHeads, headWidth }] of layers.entries()) {
    const part = (k: number) => reshape(slice(whole, [0, k * size], [length, (k + 1) * size]), [length, kvHeads, headWidth])
    prefix!.keys.set(part(2 * i))
    prefix!.values.set(part(2 * i + 1))
  }
}

async function readConfig(file: string): Promise<Config> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Config
  } catch (error) {
    throw new LeanformerError('ERR_IO', `peft: ${file} cannot be read: ${(error as Error).message}`, 'give the folder that holds adapter_config.json and adapter_model.safetensors', { cause: error })
  }
}

const read = new Set([
  'peft_type', 'target_modules', 'r', 'lora_alpha', 'lora_dropout', 'use_rslora', 'use_dora', 'rank_pattern', 'alpha_pattern',
  'modules_to_save', 'feedforward_modules', 'num_virtual_tokens', 'prefix_projection',
  // Facts that loading does not need.
  'base_model_name_or_path', 'task_type', 'inference_mode', 'init_lora_weights', 'init_ia3_weights', 'num_layers', 'num_attention_heads',
  'num_transformer_submodules', 'token_dim', 'encoder_hidden_size', 'peft_version', 'revision', 'auto_mapping', 'prompt_tuning_init',
  'prompt_tuning_init_text', 'tokenizer_name_or_path', 'tokenizer_kwargs', 'init_weights', 'megatron_core', 'qalora_group_size',
])

/** These change what the adapter computes: anything but their neutral value is refused. */
const refused = [
  'bias', 'fan_in_fan_out', 'lora_bias', 'layers_to_transform', 'layer_replication', 'exclude_modules', 'target_parameters',
  'trainable_token_indices', 'use_qalora', 'megatron_config', 'alora_invocation_tokens', 'prompt_tuning_init_state_dict_path',
]

const isNeutral = (value: unknown) =>
  value === undefined || value === null || value === false || value === 'none' || (typeof value === 'object' && Object.keys(value).length === 0)

function checkConfig(config: Config, onWarning: (message: string) => void): void {
  if (!['LORA', 'IA3', 'PROMPT_TUNING', 'PREFIX_TUNING'].includes(config.peft_type as string)) {
    throw new LeanformerError('ERR_ARGUMENT', `peft: peft_type ${JSON.stringify(config.peft_type)} is not supported`, 'LORA, IA3, PROMPT_TUNING and PREFIX_TUNING are')
  }
  for (const [key, value] of Object.entries(config)) {
    if (read.has(key)) continue
    if (refused.includes(key)) {
      if (!isNeutral(value)) throw new LeanformerError('ERR_ARGUMENT', `peft: ${key} ${JSON.stringify(value)} is not supported`, 'save the adapter without it')
    } else if (!isNeutral(value)) onWarning(`peft: ${key} in adapter_config.json is not known here and was ignored`)
  }
}
