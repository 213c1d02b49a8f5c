// A run that starts from another's weights, with adapters, and one that is taught by it; a masked model beside them.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { openModel, startTraining } from '../../lib/cli/training_run'
import { trainCommand } from '../../lib/cli/train'
import { getDevice } from '../../lib/tensor/device'
import type { Writable } from 'node:stream'

const shape = { text: 'moby-dick', device: 'cpu', layers: 2, width: 16, heads: 2, context: 16, batch: 2, steps: 2, evalTokens: 64, json: true }

test('--from with LoRA, distil with a teacher, bert', async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'from-'))
  const sink = { write: () => true } as unknown as Writable
  const terminal = { stdout: sink, stderr: sink, env: {}, onInterrupt: () => () => {}, exit: () => {} }
  const train = (out: string, options: object) => trainCommand({ ...shape, out: path.join(folder, out), ...options }, startTraining, terminal)
  try {
    const base = path.join(folder, 'base')
    expect(await train('base', {})).toBe(0)
    expect(await train('tuned', { from: base, technique: ['lora:rank=2,targets=all'] })).toBe(0)
    const { model } = await openModel(base, getDevice('cpu'))
    const { model: tuned } = await openModel(path.join(folder, 'tuned'), getDevice('cpu'))
    const name = 'blocks.1.mlp.up.weight'
    expect(await tuned.state().get(name)!.toFloat64()).toEqual(await model.state().get(name)!.toFloat64())
    expect(await train('taught', { layers: 1, technique: [`distil:teacher=${base}`] })).toBe(0)
    expect(await train('masked', { model: 'bert' })).toBe(0)
    await expect(train('none', { technique: ['distil'] })).rejects.toMatchObject({ code: 'ERR_OPTION', message: 'distil: teacher is missing' })
    await expect(train('other', { from: base, width: 32 })).rejects.toMatchObject({ code: 'ERR_CHECKPOINT' })
  } finally {
    await rm(folder, { recursive: true })
  }
}, 120_000)
