// `leanformer sample`: continues a text with the model of a run folder, token by token on stdout.

import type { Writable } from 'node:stream'

import { generate } from '../models/generate'
import { GPT } from '../models/gpt'
import { defaultGenerator } from '../tensor/random'
import { fromHost } from '../train/host_tensor'
import type { TrainerState } from '../train/trainer'
import { scope } from '../tensor/scope'
import { sampleSchema } from './config'
import { optionError, resolveOptions } from './options'
import { openRun } from './train'
import { buildModel, prepareDevice } from './training_run'

export async function sampleCommand(
  flags: Record<string, unknown>,
  { stdout, stderr }: { stdout: Writable; stderr: Writable } = process,
): Promise<number> {
  const { values } = resolveOptions(sampleSchema, [{ origin: 'flag', values: flags }])
  const { checkpoint, config, tokenizer } = await openRun(values.run, (message) =>
    stderr.write(`warning: ${message}\n`),
  )
  const device = prepareDevice({
    device: values.device,
    threads: values.threads ?? config.threads,
    memoryLimit: undefined,
  })
  const { model, techniques } = await buildModel(config, tokenizer.vocabSize, device)
  try {
    if (!(model instanceof GPT)) throw optionError(`--run ${values.run} is a ${config.model}, which does not continue texts`, 'give the run of a gpt or llama')
    const saved = (checkpoint.state as TrainerState).techniques
    for (const technique of techniques) technique.restore?.(model, saved[technique.name])
    scope(() => {
      const own = Object.entries(checkpoint.tensors).filter(([name]) => name.startsWith('model.'))
      model.loadState(new Map(own.map(([name, value]) => [name.slice('model.'.length), fromHost(value, device)])))
    })
    defaultGenerator.reseed(values.seed)
    const stream = tokenizer.stream()
    stdout.write(values.prompt)
    const { tokens: maxTokens, temperature, topK, topP } = values
    const eosId = tokenizer.eosId
    for await (const id of generate(model, tokenizer.encode(values.prompt), {
      maxTokens,
      temperature,
      topK,
      topP,
      ...(eosId === undefined ? {} : { eosId }),
    })) {
      stdout.write(stream.push(id))
    }
    stdout.write(`${stream.end()}\n`)
    return 0
  } finally {
    model.dispose()
  }
}
