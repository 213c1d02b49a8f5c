// `leanformer demo`, which is `npm start`: trains a small GPT on Moby-Dick for about a minute on two cores, then lets
// it write. Every option of `train` may be given and wins over the preset.

import { trainCommand, processTerminal } from './train'
import { resolveTrainConfig, type TrainConfig } from './config'
import { optionError } from './options'
import { sampleCommand } from './sample'
import { startTraining } from './training_run'

export const demoPreset = {
  layers: 4,
  width: 128,
  heads: 4,
  context: 128,
  batch: 8,
  steps: 3200,
  lr: 2e-3,
  beta2: 0.99,
  evalEvery: 800,
  evalTokens: 32_768,
} satisfies Partial<TrainConfig>

export async function demoCommand(flags: Record<string, unknown>): Promise<number> {
  for (const name of ['config', 'resume'] as const) {
    if (flags[name] !== undefined)
      throw optionError(`--${name} is not an option of demo`, `use leanformer train --${name} ${String(flags[name])}`)
  }
  const merged = { ...demoPreset, ...flags }
  const { out, json } = resolveTrainConfig({ flags: merged }).values
  const code = await trainCommand({ ...merged, out }, startTraining)
  if (code !== 0 || json) return code
  processTerminal.stdout.write('\nA sample:\n\n')
  return sampleCommand({ run: out, prompt: 'The whale ', tokens: 400, temperature: 0.8 })
}
