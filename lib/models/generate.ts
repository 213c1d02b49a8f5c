// Text generation from a language model: temperature, top-k, top-p (nucleus sampling, Holtzman et al., arXiv 1904.09751),
// with a key-value cache. Beyond the context the oldest half is dropped and the cache is filled anew.
import { noGrad } from '../autograd/tape'
import { LeanformerError } from '../native/errors'
import { defaultGenerator, hostRandom, type RandomState } from '../tensor/random'
import { scope } from '../tensor/scope'
import { tensor } from '../tensor/tensor'
import { cast } from '../ops/cast'
import type { GPT } from './gpt'

export interface GenerateOptions {
  /** Tokens to add. */
  maxTokens: number
  /** 1 samples from the model's own distribution, less is more certain, 0 always takes the most likely token. Default 1. */
  temperature?: number
  /** Only the k most likely tokens; 0 (default) for all. */
  topK?: number
  /** Only the most likely tokens that together have this probability; 1 (default) for all. */
  topP?: number
  /** Stop after this token. */
  eosId?: number
  /** Block of random numbers; default: the next one of the default generator. */
  random?: RandomState
  /** Default true; false runs the whole context for every token, with the same result. */
  useCache?: boolean
  signal?: AbortSignal
}

function check(model: GPT, prompt: ArrayLike<number>, options: GenerateOptions): void {
  const { temperature = 1, topK = 0, topP = 1, maxTokens } = options
  const wrong = (text: string) => new LeanformerError('ERR_ARGUMENT', `generate: ${text}`)
  if (prompt.length === 0) throw wrong('the prompt is empty; give at least one token')
  for (let i = 0; i < prompt.length; ++i) {
    if (!(prompt[i] >= 0 && prompt[i] < model.config.vocab)) {
      throw wrong(`token ${prompt[i]} at position ${i} is outside the vocabulary of ${model.config.vocab}`)
    }
  }
  if (!(temperature >= 0)) throw wrong(`temperature must not be negative, got ${temperature}`)
  if (!(topK >= 0) || !Number.isInteger(topK)) throw wrong(`topK must be a whole number from 0 on, got ${topK}`)
  if (!(topP > 0 && topP <= 1)) throw wrong(`topP must be above 0 and at most 1, got ${topP}`)
  if (!(maxTokens >= 0)) throw wrong(`maxTokens must not be negative, got ${maxTokens}`)
}

/** Picks a token from unnormalised log-probabilities; `u` is uniform in [0, 1). */
export function sampleToken(
  logits: ArrayLike<number>,
  { temperature = 1, topK = 0, topP = 1 }: Pick<GenerateOptions, 'temperature' | 'topK' | 'topP'>,
  u: number,
): number {
  let best = 0
  for (let i = 1; i < logits.length; ++i) if (logits[i] > logits[best]) best = i
  if (temperature === 0) return best
  const ids = Array.from({ length: logits.length }, (_, i) => i)
  const weights = Float64Array.from(ids, (i) => Math.exp((logits[i] - logits[best]) / temperature))
  // Sorting costs more than sampling: only where an order is needed. Equal weights keep the order of their ids.
  if (topK > 0 || topP < 1) ids.sort((a, b) => weights[b] - weights[a] || a - b)
  let count = topK > 0 ? Math.min(topK, ids.length) : ids.length
  let total = 0
  for (let i = 0; i < count; ++i) total += weights[ids[i]]
  if (topP < 1) {
    let sum = 0
    let n = 0
    while (n < count && sum < topP * total) sum += weights[ids[n++]]
    count = n
    total = sum
  }
  let rest = u * total
  for (let i = 0; i < count; ++i) {
    rest -= weights[ids[i]]
    if (rest < 0) return ids[i]
  }
  return ids[count - 1]
}

/**
 * Continues `prompt`; yields each new token. The model's mode (training or not) is restored afterwards.
 * @throws ERR_ARGUMENT for an empty prompt, ids outside the vocabulary or options out of range
 */
export async function* generate(model: GPT, prompt: ArrayLike<number>, options: GenerateOptions): AsyncGenerator<number> {
  check(model, prompt, options)
  const { vocab } = model.config
  const context = model.room
  const random = hostRandom(options.random ?? defaultGenerator.next())
  const device = model.tokenEmbedding.weight.tensor.device
  const wasTraining = model.training
  let tokens = Array.from(prompt).slice(-context)
  let cache = options.useCache === false ? null : model.newCache()
  let cached = 0
  model.eval()
  try {
    for (let made = 0; made < options.maxTokens && !options.signal?.aborted; ++made) {
      if (tokens.length > context) {
        tokens = tokens.slice(-Math.ceil(context / 2))
        cache?.forEach((layer) => layer.dispose())
        cache &&= model.newCache()
        cached = 0
      }
      const fresh = cache ? tokens.slice(cached) : tokens
      const last = scope(() =>
        noGrad(() => {
          const ids = tensor(Int32Array.from(fresh), [1, fresh.length], { device })
          return cast(model.lastLogits(ids, { cache }), 'f32')
        }),
      )
      const logits = (await last.data()) as Float32Array
      last.dispose()
      cached = tokens.length
      const next = sampleToken(logits.subarray(0, vocab), options, random.uniform())
      tokens.push(next)
      yield next
      if (next === options.eosId) return
    }
  } finally {
    cache?.forEach((layer) => layer.dispose())
    model.train(wasTraining)
  }
}
