// `leanformer sample`: continues a text with the model of a run folder, token by token on stdout.

import type { Writable } from 'node:stream'

import { generate } from '../models/generate'
import { GPT } from '../models/gpt'
import { defaultGenerator } from '../tensor/random'
import { getDevice } from '../tensor/device'
import { sampleSchema } from './config'
import { optionError, resolveOptions } from './options'
import { openModel, prepareDevice } from './training_run'

export async function sampleCommand(
  flags: Record<string, unknown>,
  { stdout, stderr }: { stdout: Writable; stderr: Writable } = process,
): Promise<number> {
  const { values } = resolveOptions(sampleSchema, [{ origin: 'flag', values: flags }])
  const device = getDevice(values.device)
  const { model, config, tokenizer } = await openModel(values.run, device, (message) => stderr.write(`warning: ${message}\n`))
  prepareDevice({ device: values.device, threads: values.threads ?? config.threads, memoryLimit: undefined })
  try {
    if (!(model instanceof GPT)) throw optionError(`--run ${values.run} is a ${config.model}, which does not continue texts`, 'give the run of a gpt or llama')
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
