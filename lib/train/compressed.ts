// A model that was shrunk, as a folder: config.json says how it was built, how many heads, units and layers are left and
// which matrices are in few bits or without their zeros; model.safetensors holds its parameters and codes.
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { LeanformerError } from '../native/errors'
import { Attention } from '../nn/attention'
import { FakeQuantised, type FakeQuantisedOptions } from '../nn/fake_quantised'
import { IntWeight } from '../nn/int_weight'
import { Linear } from '../nn/linear'
import { MLP } from '../nn/mlp'
import type { Module } from '../nn/module'
import { NF4Weight } from '../nn/nf4'
import type { PackedWeight } from '../nn/packed_weight'
import type { Parameter } from '../nn/parameter'
import { blockRows, SparseWeight, type SparseLayout } from '../nn/sparse_weight'
import { keepLayers } from '../techniques/layer_drop'
import type { PrunableModel } from '../techniques/prune'
import { bytesOfTensors } from './host_tensor'
import { loadParameters, writeTensors } from './pretrained'

type Packing =
  | { form: 'int'; bits: 8 | 4; group: number }
  | { form: 'nf4'; doubleQuantisation: boolean }
  | { form: 'sparse'; layout: SparseLayout; kept: number; places: number }

/** What of a model's shape its configuration does not say. */
export interface Structure {
  layers?: number
  /** By path, of every attention and feed-forward layer. */
  heads: Record<string, number>
  units: Record<string, number>
  packed: Record<string, Packing>
  /** By path, of layers whose inputs lie on a grid. */
  grids?: Record<string, FakeQuantisedOptions>
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
    if (module.adapter instanceof FakeQuantised && module.packed) (structure.grids ??= {})[path] = module.adapter.options
    else if (module.adapter) throw new LeanformerError('ERR_ARGUMENT', `compressed: ${path} has an adapter`, 'merge it first, save it with savePeft, or export it with exportQat')
    const { packed } = module
    if (packed instanceof IntWeight) structure.packed[path] = { form: 'int', bits: packed.bits, group: packed.group }
    if (packed instanceof NF4Weight) structure.packed[path] = { form: 'nf4', doubleQuantisation: packed.superScales !== null }
    if (packed instanceof SparseWeight) structure.packed[path] = { form: 'sparse', layout: packed.layout, kept: packed.kept, places: packed.places.tensor.size }
  }
  return structure
}

/** A packed weight of the saved form, whose numbers are still to be read. */
function emptyWeight({ tensor }: Parameter, packing: Packing): PackedWeight {
  if (packing.form === 'nf4') return new NF4Weight(tensor, packing)
  if (packing.form === 'int') return new IntWeight(tensor, packing)
  const [out, inner] = tensor.shape
  const rows = packing.layout === '2:4' ? 0 : blockRows[packing.layout]
  const parts = {
    values: new Float32Array(packing.kept),
    places: rows ? new Int32Array(packing.places) : new Uint8Array(packing.places),
    offsets: rows ? new Int32Array(out / rows + 1) : null,
  }
  return new SparseWeight(parts, [out, inner], packing.layout, tensor.device)
}

/** Writes a model in its present shape. Returns the bytes of its tensors. */
export async function saveCompressed(folder: string, model: Module<never, unknown> & { config: object }): Promise<number> {
  await mkdir(folder, { recursive: true })
  const tensors = model.state()
  await writeTensors(join(folder, 'model.safetensors'), tensors)
  await writeFile(join(folder, 'config.json'), `${JSON.stringify({ config: model.config, structure: structureOf(model) }, null, 2)}\n`)
  return bytesOfTensors(tensors.values())
}

/** Gives a model that was just built the shape that structureOf() found; its values are to be loaded then. */
export function applyStructure(model: Module<never, unknown>, structure: Structure): void {
  if (structure.layers !== undefined) keepLayers(model as unknown as PrunableModel, first(structure.layers))
  for (const [path, each] of model.namedModules()) {
    const module = each as unknown
    if (module instanceof Attention && structure.heads[path] < module.heads) module.keepHeads(first(structure.heads[path]))
    if (module instanceof MLP && structure.units[path] < module.down.shape[1]) module.keepUnits(first(structure.units[path]))
  }
  for (const [path, each] of model.namedModules()) {
    const [module, packing] = [each as unknown, structure.packed[path]]
    if (!packing || !(module instanceof Linear)) continue
    module.pack(emptyWeight(module.weight, packing))
    const grid = structure.grids?.[path]
    if (grid) module.adapter = new FakeQuantised(module, grid)
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
