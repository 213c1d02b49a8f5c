// LLaMA against transformers (test/goldens/models.py): logits, loss, gradients; names both ways; TinyLlama's numbers.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { Llama, llama, tinyLlama } from '../../lib/models/llama'
import { generate } from '../../lib/models/generate'
import { seed } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { readPretrained, writePretrained } from '../../lib/train/pretrained'
import { checkGradients, foreignTensors, goldenFacts, goldenTensors, relative, type Goldens } from '../support/goldens'

const golden = goldenFacts('llama')
let goldens: Goldens
beforeAll(async () => {
  goldens = await goldenTensors('llama')
})

function goldenModel(dtype: 'f32' | 'f64', change: (tensors: ReturnType<typeof foreignTensors>) => void = () => {}): Llama {
  return scope(() => {
    const tensors = foreignTensors(goldens)
    change(tensors)
    return Llama.fromForeign(golden.config, tensors, { dtype })
  })
}

// transformers computes norms and angles in f32 whatever the model's format: its f64 result is no better than that.
test.each([['f32', 2e-5], ['f64', 5e-6]] as const)('logits, loss and gradients in %s', async (dtype, bound) => {
  const model = goldenModel(dtype)
  const ids = tensor(goldens.ints('ids'), goldens.shape('ids'))
  const targets = tensor(goldens.ints('targets'), goldens.shape('targets'))
  const logits = noGrad(() => model.logits(ids))
  expect(relative(await logits.toFloat64(), goldens.numbers('logits'))).toBeLessThan(Math.min(bound, 1e-5))
  const loss = scope(() => {
    const value = model.loss(ids, targets)
    backward(value)
    return value.detach()
  })
  expect(Math.abs((await loss.item()) / golden.loss - 1)).toBeLessThan(bound)
  await checkGradients(model, model.foreignNames(), goldens, bound)
})

test('names map both ways, through a folder', async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'llama-'))
  try {
    const model = goldenModel('f32')
    await writePretrained(folder, { config: model.foreignConfig(), tensors: model.toForeign() })
    const { config, tensors } = await readPretrained(folder)
    expect([...tensors.keys()].sort()).toEqual(Object.keys(goldens.tensors).flatMap((name) => (/^weights\.(.*)/.exec(name) ?? []).slice(1)).sort())
    for (const [name, value] of tensors) expect([name, relative(await value.toFloat64(), goldens.numbers(`weights.${name}`))]).toEqual([name, 0])
    expect(Llama.fromForeign(config, tensors).config).toEqual(model.config)
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('a missing, an unknown and a misshapen tensor are refused by name', () => {
  const refused = (message: RegExp) => expect.objectContaining({ code: 'ERR_CHECKPOINT', message: expect.stringMatching(message) })
  const name = 'model.layers.1.self_attn.k_proj.weight'
  expect(() => goldenModel('f32', (tensors) => void tensors.delete(name))).toThrow(refused(/missing model\.layers\.1\.self_attn\.k_proj\.weight/))
  expect(() => goldenModel('f32', (tensors) => void tensors.set('extra', tensors.get(name)!))).toThrow(refused(/unknown extra/))
  expect(() => goldenModel('f32', (tensors) => void tensors.set(name, tensors.get('lm_head.weight')!))).toThrow(refused(/k_proj.*needs/))
  expect(() => Llama.fromForeign({ ...golden.config, rope_parameters: { rope_type: 'llama3' } }, new Map())).toThrow(/rope_parameters/)
})

test('TinyLlama has 1 100 048 384 parameters and a key-value cache of 4 heads in 32', () => {
  const model = new Llama(tinyLlama, { device: 'meta' })
  expect(model.parameterCount()).toBe(1_100_048_384)
  const cache = model.newCache(8)
  const { keys, values } = cache[0].reserve(1, 1, model.config.kvHeads, tinyLlama.width / tinyLlama.heads, model.parameters()[0].tensor)
  expect([keys.shape, values.shape]).toEqual([[1, 8, 4, 64], [1, 8, 4, 64]])
  expect(keys.size / (8 * tinyLlama.width)).toBe(4 / 32)
  cache.forEach((layer) => layer.dispose())
  model.dispose()
})

test('generates with its cache what it would without', async () => {
  const model = goldenModel('f32')
  const collect = async (useCache: boolean) => {
    seed(5)
    const out: number[] = []
    for await (const id of generate(model, [1, 2, 3], { maxTokens: 12, useCache })) out.push(id)
    return out
  }
  expect(await collect(true)).toEqual(await collect(false))
})

test('the command line refuses what LLaMA does not have', () => {
  const shape = { vocab: 5, context: 4, layers: 1, width: 8, heads: 2 }
  expect(() => llama.create({ ...shape, norm: 'layer_norm' }, {})).toThrow(
    expect.objectContaining({ code: 'ERR_OPTION', message: 'llama: norm is layer_norm, but this model has rms_norm' }),
  )
  expect(llama.create(shape, {}).parameterCount()).toBeGreaterThan(0)
})
