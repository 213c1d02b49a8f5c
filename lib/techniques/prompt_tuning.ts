// Prompt tuning: trained vectors in front of the embedded tokens of a frozen decoder; they start as embeddings of tokens
// drawn from the vocabulary. Source: Lester et al., arXiv 2104.08691.
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import { GPT } from '../models/gpt'
import type { Module } from '../nn/module'
import { Parameter } from '../nn/parameter'
import { embedding } from '../ops/embedding'
import { hostRandom } from '../tensor/random'
import { scope } from '../tensor/scope'
import { tensor } from '../tensor/tensor'
import { defineTechnique } from './technique'
import { trainOnly } from './train_only'

/** Freezes the model and gives it a prompt of `length` vectors; returns how many numbers are trained. */
export function addPrompt(model: Module<never, unknown>, { length, seed = 1 }: { length: number; seed?: number }): number {
  if (!(model instanceof GPT)) throw new LeanformerError('ERR_ARGUMENT', 'prompt_tuning: only for decoders (gpt, llama)')
  if (!Number.isInteger(length) || length < 1) {
    throw new LeanformerError('ERR_ARGUMENT', `prompt_tuning: length must be a whole number above 0, got ${length}`)
  }
  const random = hostRandom({ seed, offset: 0 })
  const table = model.tokenEmbedding.weight.tensor
  const start = scope(() =>
    noGrad(() => {
      const ids = Int32Array.from({ length }, () => Math.floor(random.uniform() * model.config.vocab))
      return embedding(table, tensor(ids, [length], { device: table.device }))
    }),
  )
  model.prompt = new Parameter(start)
  model.makeRoom(length)
  return trainOnly(model, (path) => path === 'prompt')
}

export const prompt_tuning = defineTechnique({
  name: 'prompt_tuning',
  title: 'Prompt tuning: trained vectors in front of the text of a frozen decoder',
  category: 'parameter-efficient tuning',
  source: 'Lester et al., arXiv 2104.08691',
  settings: {
    length: { default: 20, min: 0, integer: true, help: 'vectors, 0: off; with learned positions the context must have room for them' },
    seed: { default: 1, min: 0, integer: true, help: 'of the tokens they start as' },
  },
  decides: ['trained_parameters'],
  neutral: { settings: { length: 0 } },
  make: ({ length, seed }) => ({
    after: ['distil'],
    adapt: (model) => void (length > 0 && addPrompt(model, { length, seed })),
  }),
})
