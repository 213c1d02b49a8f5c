// Folders as the transformers library writes them: config.json beside model.safetensors, or beside several files that
// model.safetensors.index.json lists. Which model it is, and its names, are the model classes' own business.
import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { LeanformerError } from '../native/errors'
import type { Module } from '../nn/module'
import { getDevice, type Device } from '../tensor/device'
import type { Tensor } from '../tensor/tensor'
import { loadInto, loadTensor, toHost } from './host_tensor'
import { openSafetensors, writeSafetensors } from './safetensors'

export interface Pretrained {
  config: Record<string, unknown>
  /** They belong to the caller. */
  tensors: Map<string, Tensor>
}

async function readJson(folder: string, name: string): Promise<Record<string, unknown>> {
  try {
    return JSON.parse(await readFile(join(folder, name), 'utf8')) as Record<string, unknown>
  } catch (error) {
    throw new LeanformerError('ERR_IO', `pretrained: ${join(folder, name)} cannot be read: ${(error as Error).message}`, 'give the folder that holds config.json and model.safetensors', { cause: error })
  }
}

/** The tensors of one safetensors file, on `device`. */
export async function readTensors(file: string, device?: string | Device): Promise<{ tensors: Map<string, Tensor>; metadata: Record<string, string> }> {
  const target = getDevice(device)
  return openSafetensors(file, async (stored, metadata) => {
    const tensors = new Map<string, Tensor>()
    for (const each of stored) tensors.set(each.name, await loadTensor(each, target))
    return { tensors, metadata }
  })
}

/**
 * Fills a model with the parameters of one safetensors file under the model's own names, in any floating format, in place
 * and piece by piece: nothing is ever held twice.
 * @throws ERR_IO, ERR_CHECKPOINT; names and shapes are checked before anything changes
 */
export async function loadParameters(file: string, model: Module<never, unknown>): Promise<void> {
  await openSafetensors(file, async (stored) => {
    model.checkState(new Map(stored.map(({ name, shape }) => [name, shape])))
    const parameters = model.namedParameters()
    for (const each of stored) {
      const parameter = parameters.get(each.name)!
      parameter.zeroGrad()
      await loadInto(parameter.tensor, each)
      parameter.refresh()
    }
  })
}

/** Writes tensors as one safetensors file. */
export async function writeTensors(file: string, tensors: Map<string, Tensor>): Promise<void> {
  const host = await Promise.all([...tensors].map(async ([name, value]) => [name, await toHost(value)] as const))
  await writeSafetensors(file, Object.fromEntries(host), { format: 'pt' })
}

/** @throws ERR_IO, ERR_CHECKPOINT */
export async function readPretrained(folder: string, device?: string | Device): Promise<Pretrained> {
  const config = await readJson(folder, 'config.json')
  const index = 'model.safetensors.index.json'
  const files = existsSync(join(folder, index))
    ? [...new Set(Object.values((await readJson(folder, index)).weight_map as Record<string, string>))]
    : ['model.safetensors']
  const tensors = new Map<string, Tensor>()
  for (const file of files) for (const [name, value] of (await readTensors(join(folder, file), device)).tensors) tensors.set(name, value)
  return { config, tensors }
}

/** Writes config.json and model.safetensors; disposes the tensors. */
export async function writePretrained(folder: string, { config, tensors }: Pretrained): Promise<void> {
  try {
    await mkdir(folder, { recursive: true })
    await writeTensors(join(folder, 'model.safetensors'), tensors)
    await writeFile(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`)
  } finally {
    for (const value of tensors.values()) value.dispose()
  }
}
