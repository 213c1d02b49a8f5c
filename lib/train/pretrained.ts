// Folders as the transformers library writes them: config.json beside model.safetensors, or beside several files that
// model.safetensors.index.json lists. Which model it is, and its names, are the model classes' own business.
import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { LeanformerError } from '../native/errors'
import { getDevice, type Device } from '../tensor/device'
import { keep } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { fromHost, toHost } from './host_tensor'
import { readSafetensors, writeSafetensors } from './safetensors'

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
  const { tensors, metadata } = await readSafetensors(file)
  const target = getDevice(device)
  return { tensors: new Map(Object.entries(tensors).map(([name, value]) => [name, keep(fromHost(value, target))])), metadata }
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
