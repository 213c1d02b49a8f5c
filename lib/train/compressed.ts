// A model that was shrunk, as a folder: config.json says how it was built, how many heads, units and layers are left and
// which matrices are in few bits; model.safetensors holds its parameters and codes.
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { LeanformerError } from '../native/errors'
import { Attention } from '../nn/attention'
import { IntWeight } from '../nn/int_weight'
import { Linear } from '../nn/linear'
import { MLP } from '../nn/mlp'
import type { Module } from '../nn/module'
import { NF4Weight } from '../nn/nf4'
import { keepLayers } from '../techniques/layer_drop'
import type { PrunableModel } from '../techniques/prune'
import { loadParameters, writeTensors } from './pretrained'

type Packing = { form: 'int'; bits: 8 | 4; group: number } | { form: 'nf4'; doubleQuantisation: boolean }

/** What of a model's shape its configuration does not say. */
export interface Structure {
  layers?: number
  /** By path, of every attention and feed-forward layer. */
  heads: Record<string, number>
  units: Record<string, number>
  packed: Record<string, Packing>
}

/** The present shape of a model. @throws ERR_ARGUMENT for a layer with an adapter */
export function structureOf(model: Module<never, unknown>): Structure {
  const structure: Structure = { heads: {}, units: {}, packed: {} }
  const { blocks } = model as unknown as Partial<PrunableModel>
  if (blocks) structure.layers = blocks.length
  for (const [path, each] of model.namedModules()) {
    const module = each as unknown
    if (module instanceof Attention) structure.heads[path] = module.heads
    if (module instanceof MLP) structure.units[path] = module.down.shape[1]
    if (!(module instanceof Linear)) continue
    if (module.adapter) throw new LeanformerError('ERR_ARGUMENT', `compressed: ${path} has an adapter`, 'merge it first, or save it with savePeft')
    const { packed } = module
    if (packed instanceof IntWeight) structure.packed[path] = { form: 'int', bits: packed.bits, group: packed.group }
    if (packed instanceof NF4Weight) structure.packed[path] = { form: 'nf4', doubleQuantisation: packed.superScales !== null }
  }
  return structure
}

/** Writes a model in its present shape. Returns the bytes of its tensors. */
export async function saveCompressed(folder: string, model: Module<never, unknown> & { config: object }): Promise<number> {
  await mkdir(folder, { recursive: true })
  const tensors = model.state()
  await writeTensors(join(folder, 'model.safetensors'), tensors)
  await writeFile(join(folder, 'config.json'), `${JSON.stringify({ config: model.config, structure: structureOf(model) }, null, 2)}\n`)
  const bytes = { f32: 4, f64: 8, bf16: 2, f16: 2, i32: 4, i64: 8 } as Record<string, number>
  return [...tensors.values()].reduce((n, { size, dtype }) => n + size * (bytes[dtype] ?? 1), 0)
}

/** Gives a model that was just built the shape that structureOf() found; its values are to be loaded then. */
export function applyStructure(model: Module<never, unknown>, structure: Structure): void {
  if (structure.layers !== undefined) keepLayers(model as unknown as PrunableModel, first(structure.layers))
  for (const [path, each] of [...model.namedModules()]) {
    const module = each as unknown
    if (module instanceof Attention && structure.heads[path] < module.heads) module.keepHeads(first(structure.heads[path]))
    if (module instanceof MLP && structure.units[path] < module.down.shape[1]) module.keepUnits(first(structure.units[path]))
  }
  for (const [path, each] of [...model.namedModules()]) {
    const [module, packing] = [each as unknown, structure.packed[path]]
    if (!packing || !(module instanceof Linear)) continue
    const { tensor } = module.weight
    module.pack(packing.form === 'nf4' ? new NF4Weight(tensor, packing) : new IntWeight(tensor, packing))
  }
}

/** Builds the model of such a folder; `build` makes one of its class from its configuration. @throws ERR_IO, ERR_CHECKPOINT */
export async function loadCompressed<M extends Module<never, unknown>>(folder: string, build: (config: never) => M): Promise<M> {
  let saved: { config: never; structure: Structure }
  try {
    saved = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')) as typeof saved
  } catch (error) {
    throw new LeanformerError('ERR_IO', `compressed: ${join(folder, 'config.json')} cannot be read: ${(error as Error).message}`, 'give a folder that saveCompressed wrote', { cause: error })
  }
  const { structure } = saved
  const model = build(saved.config)
  applyStructure(model, structure)
  await loadParameters(join(folder, 'model.safetensors'), model)
  return model
}

/** 0, 1, ... */
const first = (count: number) => Array.from({ length: count }, (_, i) => i)
