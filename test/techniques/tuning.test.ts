// Adapters, IA3, BitFit, prompt and prefix tuning by their own numbers, each also as a technique in the trainer.
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { Bert } from '../../lib/models/bert'
import { generate } from '../../lib/models/generate'
import { GPT, type GPTConfig } from '../../lib/models/gpt'
import { attentionLayers, addPrefix } from '../../lib/techniques/prefix_tuning'
import { addAdapters, adapters } from '../../lib/techniques/adapters'
import { bitfit, tuneBiases } from '../../lib/techniques/bitfit'
import { addIA3, ia3, ia3Layers, mergeIA3, unmergeIA3 } from '../../lib/techniques/ia3'
import { prefix_tuning } from '../../lib/techniques/prefix_tuning'
import { addPrompt, prompt_tuning } from '../../lib/techniques/prompt_tuning'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import { rand } from '../../lib/ops/random'
import { add } from '../../lib/ops/elementwise'
import { slice } from '../../lib/ops/slice'
import { reshape } from '../../lib/ops/reshape'
import { Generator, seed } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { relative } from '../support/goldens'
import { tinyConfig, tinyTrainer, tokenBatch, trainAll } from '../support/tiny_gpt'

const batch = tokenBatch(0)
const ids = () => tensor(batch.inputs, [batch.batch, batch.context])
const targets = () => tensor(batch.targets, [batch.batch, batch.context])
const { layers, width } = tinyConfig
const hidden = 4 * width

function model(config: Partial<GPTConfig> = {}): GPT {
  seed(1)
  return new GPT({ ...tinyConfig, ...config })
}
const logits = async (gpt: GPT) => noGrad(() => gpt.logits(ids())).toFloat64()

/** The same bits; on a GPU, whose library rounds once less where a bias and an activation follow a product, nearly so. */
async function expectSame(gpt: GPT, before: Float64Array): Promise<void> {
  const found = await logits(gpt)
  if (gpt.tokenEmbedding.weight.tensor.device.name === 'cpu') expect(found).toEqual(before)
  else expect(relative(found, before)).toBeLessThan(1e-6)
}

/** Paths of the parameters that get a gradient. */
function withGradient(gpt: GPT): string[] {
  scope(() => backward(gpt.loss(ids(), targets())))
  return [...gpt.namedParameters()].filter(([, { grad }]) => grad !== null).map(([path]) => path)
}

describe('adapters', () => {
  test.each([['houlsby', 2], ['pfeiffer', 1]] as const)('%s: count, near identity at first, what is trained', async (form, perLayer) => {
    const gpt = model()
    const before = await logits(gpt)
    const norms = (2 * layers + 1) * 2 * width
    const m = 8
    expect(addAdapters(gpt, { form, bottleneck: m })).toBe(layers * perLayer * (2 * m * width + width + m) + norms)
    expect(relative(await logits(gpt), before)).toBeLessThan(1e-3)
    const trained = withGradient(gpt)
    expect(trained.every((path) => /\.adapter\.|norm/.test(path))).toBe(true)
    expect(trained.filter((path) => /\.adapter\./.test(path))).toHaveLength(layers * perLayer * 4)
  })

  test('W_up = 0 changes nothing', async () => {
    const gpt = model()
    const before = await logits(gpt)
    addAdapters(gpt, { form: 'houlsby', bottleneck: 4, deviation: 0 })
    await expectSame(gpt, before)
  })

  test('the head of a classifier is trained with them', () => {
    const bert = new Bert({ vocab: 9, context: 4, layers: 1, width: 8, heads: 2, classes: 2 })
    addAdapters(bert, { form: 'houlsby', bottleneck: 2 })
    const trained = [...bert.namedParameters()].filter(([, { trainable }]) => trainable).map(([path]) => path)
    expect(trained).toEqual(expect.arrayContaining(['classifier.weight', 'pooler.bias', 'blocks.0.norm1.weight', 'embedding_norm.bias']))
    expect(trained).not.toContain('token_embedding.weight')
  })
})

describe('IA3', () => {
  test('ones change nothing, L (d_k + d_v + d_ff) numbers, merged as unmerged', async () => {
    const gpt = model()
    const before = await logits(gpt)
    expect(addIA3(gpt)).toBe(layers * (width + width + hidden))
    await expectSame(gpt, before)
    expect(withGradient(gpt).every((path) => path.includes('.adapter.'))).toBe(true)
    const generator = new Generator(3)
    for (const { adapter } of ia3Layers(gpt).values()) {
      for (const { factors } of adapter.parts) factors.set(scope(() => add(rand([...factors.shape], { generator }), 0.5)))
    }
    const apart = await logits(gpt)
    expect(relative(apart, before)).toBeGreaterThan(1e-3)
    mergeIA3(gpt)
    expect(relative(await logits(gpt), apart)).toBeLessThan(1e-6)
    unmergeIA3(gpt)
    expect(relative(await logits(gpt), apart)).toBeLessThan(1e-6)
  })
})

describe('BitFit', () => {
  test('biases get a gradient and nothing else; without any it says so', () => {
    const gpt = model()
    const expected = layers * (2 * width + 3 * width + width + hidden + width) + width
    expect(tuneBiases(gpt)).toBe(expected)
    expect(withGradient(gpt).every((path) => path.endsWith('bias'))).toBe(true)
    expect(() => tuneBiases(model({ bias: false }))).toThrow(/no biases/)
  })
})

describe('prefix tuning', () => {
  test('a prefix of 0 tokens is the base model, bit for bit', async () => {
    const gpt = model()
    const before = await logits(gpt)
    expect(addPrefix(gpt, { length: 0 })).toBe(0)
    expect(await logits(gpt)).toEqual(before)
  })

  test.each(['none', 'learned'] as const)('keys and values of real tokens as a prefix are those tokens (positions %s)', async (positions) => {
    const gpt = model({ positions })
    const n = 3
    const all = [4, 9, 2, 7, 1, 5, 5, 8]
    const run = async (list: number[]) => noGrad(() => gpt.logits(tensor(Int32Array.from(list), [1, list.length]))).toFloat64()
    const expected = (await run(all)).slice(n * tinyConfig.vocab)
    const cache = gpt.newCache(n)
    scope(() => noGrad(() => gpt.call(tensor(Int32Array.from(all.slice(0, n)), [1, n]), { cache })))
    expect(addPrefix(gpt, { length: n })).toBe(n * 2 * layers * width)
    for (const [i, layer] of attentionLayers(gpt).entries()) {
      const past = cache[i].reserve(1, 0, layer.kvHeads, layer.headWidth, gpt.parameters()[0].tensor)
      for (const name of ['keys', 'values'] as const) {
        const shape = [n, layer.kvHeads, layer.headWidth]
        layer.prefix![name].set(scope(() => reshape(slice(past[name], [0, 0, 0, 0], [1, ...shape]), shape)))
      }
    }
    expect(relative(await run(all.slice(n)), expected)).toBeLessThan(1e-5)
    const few = tensor(new Int32Array(4), [1, 4])
    expect(() => scope(() => gpt.call(few, { segments: few }))).toThrow(expect.objectContaining({ code: 'ERR_ARGUMENT' }))
  })
})

describe('prompt tuning', () => {
  test('a prompt of embedded tokens is those tokens', async () => {
    const gpt = model()
    const all = [4, 9, 2, 7, 1, 5, 5, 8]
    const run = async (list: number[]) => noGrad(() => gpt.logits(tensor(Int32Array.from(list), [1, list.length]))).toFloat64()
    const expected = (await run(all)).slice(3 * tinyConfig.vocab)
    expect(addPrompt(gpt, { length: 3 })).toBe(3 * width)
    gpt.prompt!.set(scope(() => noGrad(() => gpt.tokenEmbedding.call(tensor(Int32Array.from(all.slice(0, 3)))))))
    expect(relative(await run(all.slice(3)), expected)).toBeLessThan(1e-6)
    scope(() => backward(gpt.loss(tensor(Int32Array.of(1, 2), [1, 2]), tensor(Int32Array.of(2, 3), [1, 2]))))
    expect([...gpt.namedParameters()].filter(([, { grad }]) => grad).map(([path]) => path)).toEqual(['prompt'])
  })
})

test.each(['prompt', 'prefix'])('%s: generation with a cache is generation without, up to the room there is', async (kind) => {
  const gpt = model()
  if (kind === 'prompt') addPrompt(gpt, { length: 5 })
  else addPrefix(gpt, { length: 5 })
  expect(gpt.room).toBe(tinyConfig.context - 5)
  const collect = async (useCache: boolean) => {
    seed(5)
    const out: number[] = []
    for await (const id of generate(gpt, [1, 2, 3], { maxTokens: 20, useCache })) out.push(id)
    return out
  }
  expect(await collect(true)).toEqual(await collect(false))
})

const techniques = [
  ['adapters', adapters.create()],
  ['ia3', ia3.create()],
  ['bitfit', bitfit.create()],
  ['prefix_tuning', prefix_tuning.create({ length: 4 })],
  ['prompt_tuning', prompt_tuning.create({ length: 4 })],
] as const

test.each(techniques)('%s as a technique lowers the loss and leaves the rest alone', async (_, technique) => {
  const gpt = model({ positions: 'rotary' })
  technique.adapt!(gpt)
  const frozen = await gpt.state().get('blocks.0.attention.qkv.weight')!.toFloat64()
  const optimizer = new AdamW(decayGroups(gpt.namedParameters(), 0))
  const { trainer } = tinyTrainer({ model: gpt, optimizer, techniques: [technique], steps: 20, data: { batch: () => tokenBatch(0) }, schedule: () => 0.03 })
  const losses = await trainAll(trainer)
  expect(losses.at(-1)!).toBeLessThan(losses[0] - 0.002)
  expect(await gpt.state().get('blocks.0.attention.qkv.weight')!.toFloat64()).toEqual(frozen)
  expect(optimizer.state().tensors.size).toBe(2 * gpt.parameters().filter(({ trainable }) => trainable).length)
})
