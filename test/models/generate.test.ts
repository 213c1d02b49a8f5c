// Generation: the cache changes nothing, sampling keeps to its limits, the context may be exceeded.
import { generate, sampleToken, type GenerateOptions } from '../../lib/models/generate'
import { GPT, type GPTConfig } from '../../lib/models/gpt'
import { seed } from '../../lib/tensor/random'
import { liveHandles } from '../../lib/tensor/device'

const base: GPTConfig = { vocab: 23, context: 16, layers: 2, width: 24, heads: 4 }

async function write(model: GPT, options: Partial<GenerateOptions>, prompt = [1, 2, 3]): Promise<number[]> {
  const out: number[] = []
  for await (const token of generate(model, prompt, { maxTokens: 30, random: { seed: 3, offset: 0 }, ...options })) out.push(token)
  return out
}

test.each([
  [{}],
  [{ positions: 'rotary', kvHeads: 2, norm: 'rms_norm', activation: 'swiglu', tiedHead: false }],
  [{ positions: 'alibi' }],
] as [Partial<GPTConfig>][])('with and without the cache: the same text (%j)', async (config) => {
  seed(2)
  const model = new GPT({ ...base, ...config })
  const handles = liveHandles()
  const cached = await write(model, { temperature: 1.5 })
  expect(cached).toHaveLength(30)
  expect(await write(model, { temperature: 1.5, useCache: false })).toEqual(cached)
  expect(liveHandles()).toBe(handles)
  expect(model.training).toBe(true)
  model.dispose()
})

test('temperature 0 is the most likely token; eosId stops; abort stops', async () => {
  seed(2)
  const model = new GPT(base)
  const greedy = await write(model, { temperature: 0 })
  expect(await write(model, { temperature: 0, random: { seed: 99, offset: 1 } })).toEqual(greedy)
  expect(await write(model, { temperature: 0, eosId: greedy[4] })).toEqual(greedy.slice(0, greedy.indexOf(greedy[4]) + 1))
  const abort = new AbortController()
  abort.abort()
  expect(await write(model, { signal: abort.signal })).toEqual([])
  model.dispose()
})

test('sampleToken keeps to topK and topP', () => {
  const logits = [0, 3, 1, 2]
  const drawn = (options: object) => new Set(Array.from({ length: 1000 }, (_, i) => sampleToken(logits, options, i / 1000)))
  expect(drawn({})).toEqual(new Set([0, 1, 2, 3]))
  expect(drawn({ topK: 2 })).toEqual(new Set([1, 3]))
  // Probabilities 0.64, 0.24, 0.09, 0.03: two of them make 0.8.
  expect(drawn({ topP: 0.8 })).toEqual(new Set([1, 3]))
  expect(drawn({ topP: 0.6 })).toEqual(new Set([1]))
  expect(drawn({ temperature: 0 })).toEqual(new Set([1]))
  const share = Array.from({ length: 10_000 }, (_, i) => sampleToken(logits, {}, i / 10_000)).filter((t) => t === 1).length
  expect(share / 10_000).toBeCloseTo(Math.exp(3) / (1 + Math.E + Math.exp(2) + Math.exp(3)), 2)
})

test.each([
  [{ temperature: -1 }, 'temperature'],
  [{ topK: 1.5 }, 'topK'],
  [{ topP: 0 }, 'topP'],
  [{ maxTokens: -1 }, 'maxTokens'],
] as [Partial<GenerateOptions>, string][])('%j is refused', async (options, name) => {
  const model = new GPT(base)
  await expect(write(model, options)).rejects.toMatchObject({ code: 'ERR_ARGUMENT', message: expect.stringContaining(name) })
  await expect(write(model, {}, [])).rejects.toMatchObject({ message: expect.stringContaining('prompt') })
  await expect(write(model, {}, [23])).rejects.toMatchObject({ message: expect.stringContaining('token 23 at position 0') })
  model.dispose()
})
