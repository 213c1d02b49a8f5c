// loadParameters(): a model filled from a file in place, with next to no memory beside it.
import { createHash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { GPT } from '../../lib/models/gpt'
import { getDevice } from '../../lib/tensor/device'
import { seed } from '../../lib/tensor/random'
import type { Tensor } from '../../lib/tensor/tensor'
import { toHost } from '../../lib/train/host_tensor'
import { loadParameters, readTensors, writeTensors } from '../../lib/train/pretrained'
import { writeSafetensors } from '../../lib/train/safetensors'
import { collectGarbage } from '../support/garbage'

const device = getDevice('cpu')
// The embedding alone has 4.6 MB: more than one piece of a file that is read at once.
const shape = { vocab: 18_000, context: 8, layers: 1, width: 64, heads: 2 }
let folder: string
beforeAll(async () => {
  collectGarbage()
  folder = await mkdtemp(join(tmpdir(), 'leanformer-pretrained-'))
})
afterAll(() => rm(folder, { recursive: true }))

const build = (n: number) => {
  seed(n)
  return new GPT(shape)
}
const digest = (data: NodeJS.ArrayBufferView) => createHash('sha256').update(data).digest('hex')
const digests = async (state: Map<string, Tensor>) =>
  Object.fromEntries(await Promise.all([...state].map(async ([name, value]) => [name, digest(await value.data())] as const)))
const bytesOf = (model: GPT) => digests(model.state())

test('every parameter becomes that of the file, with at most 16 MB beside the model', async () => {
  const [source, target] = [build(1), build(2)]
  await writeTensors(join(folder, 'f32.safetensors'), source.state())
  const masters = [...target.state().values()]
  await device.synchronize()
  device.resetPeak()
  const before = device.stats().liveBytes
  await loadParameters(join(folder, 'f32.safetensors'), target)
  expect(device.stats().liveBytes).toBe(before)
  expect(device.stats().peakBytes - before).toBeLessThanOrEqual(16e6)
  expect(await bytesOf(target)).toEqual(await bytesOf(source))
  expect([...target.state().values()].every((value, i) => value === masters[i])).toBe(true)
  source.dispose()
  target.dispose()
})

test('16-bit files, and models that compute in 16 bits', async () => {
  const [source, target] = [build(1), build(2)]
  source.setComputeDType('bf16')
  const stored = await Promise.all(source.parameters().map((parameter) => toHost(parameter.value)))
  const names = [...source.state().keys()]
  await writeSafetensors(join(folder, 'bf16.safetensors'), Object.fromEntries(names.map((name, i) => [name, stored[i]])))
  target.setComputeDType('bf16')
  await loadParameters(join(folder, 'bf16.safetensors'), target)
  for (const [i, parameter] of target.parameters().entries()) {
    const wanted = await source.parameters()[i].value.toFloat32()
    expect(digest(await parameter.tensor.toFloat32())).toBe(digest(wanted))
    expect(digest(await parameter.value.toFloat32())).toBe(digest(wanted))
  }
  source.dispose()
  target.dispose()
})

test('a file of another model is refused before anything changes', async () => {
  const [source, target] = [new GPT({ ...shape, layers: 2 }), build(2)]
  await writeTensors(join(folder, 'other.safetensors'), source.state())
  const before = await bytesOf(target)
  await expect(loadParameters(join(folder, 'other.safetensors'), target)).rejects.toMatchObject({
    code: 'ERR_CHECKPOINT',
    message: expect.stringContaining('unknown blocks.1'),
  })
  expect(await bytesOf(target)).toEqual(before)
  source.dispose()
  target.dispose()
})

test('readTensors gives what was written', async () => {
  const source = build(3)
  await writeTensors(join(folder, 'all.safetensors'), source.state())
  const { tensors } = await readTensors(join(folder, 'all.safetensors'))
  const state = source.state()
  expect(await digests(tensors)).toEqual(await digests(state))
  for (const value of tensors.values()) value.dispose()
  source.dispose()
})
