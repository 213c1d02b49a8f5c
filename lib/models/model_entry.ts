// What a model's file says of itself to the command line: its name, what its text is trained for, and how one is made
// from the options. A file of this folder is a model when it exports an entry whose name is the file's.
import { LeanformerError } from '../native/errors'
import type { MLPActivation } from '../nn/mlp'
import type { Module, ModuleOptions } from '../nn/module'
import type { LinearCrossEntropyOptions } from '../ops/linear_cross_entropy'
import type { Tensor } from '../tensor/tensor'

/** The options of a model of text, as far as they were given. */
export interface ModelShape {
  vocab: number
  context: number
  layers: number
  width: number
  heads: number
  kvHeads?: number
  norm?: 'layer_norm' | 'rms_norm' | 'none'
  activation?: MLPActivation
  positions?: 'learned' | 'rotary' | 'alibi' | 'none'
  tiedHead?: boolean
  bias?: boolean
  dropout?: number
}

/** A model that can be trained on batches of tokens. */
export interface TextModel extends Module<never, unknown> {
  loss(
    ids: Tensor,
    targets: Tensor,
    inputs: { segments?: Tensor | null; positions?: Tensor | null },
    options: LinearCrossEntropyOptions,
  ): Tensor
}

export interface ModelEntry {
  kind: 'model'
  /** As in --model; the stem of its file. */
  name: string
  title: string
  source: string
  /** What its targets are: the token after each, or the tokens that were masked. */
  objective: 'next_token' | 'masked_token'
  /** Choices that are part of the architecture: given otherwise, they are refused. */
  fixed: Readonly<Partial<ModelShape>>
  create(shape: ModelShape, options: ModuleOptions): TextModel
}

/** Makes the entry that a model's file exports; create() refuses what contradicts the architecture. */
export function defineModel(entry: Omit<ModelEntry, 'kind'>): ModelEntry {
  const create = (shape: ModelShape, options: ModuleOptions) => {
    for (const [key, value] of Object.entries(entry.fixed)) {
      const given = shape[key as keyof ModelShape]
      if (given === undefined || given === value) continue
      throw new LeanformerError('ERR_OPTION', `${entry.name}: ${key} is ${String(given)}, but this model has ${String(value)}`, `leave ${key} out`)
    }
    return entry.create(shape, options)
  }
  return { ...entry, kind: 'model', create }
}
