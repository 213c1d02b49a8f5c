// BERT and DistilBERT against transformers (test/goldens/models.py): masked language model and classification, with a
// padded row; names both ways.
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { Bert, bert } from '../../lib/models/bert'
import { bertConfig, bertForeignConfig, bertFromForeign, bertNames, bertToForeign } from '../../lib/models/bert_names'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { checkGradients, foreignTensors, goldenFacts, goldenTensors, relative } from '../support/goldens'

const models = ['bert', 'bert_classes', 'distilbert', 'distilbert_classes']

async function load(stem: string, dtype: 'f32' | 'f64') {
  const goldens = await goldenTensors(stem)
  const facts = goldenFacts(stem)
  const model = scope(() => bertFromForeign(facts.config, foreignTensors(goldens), { dtype }))
  const ids = (name: string) => tensor(goldens.ints(name), goldens.shape(name))
  // Padding belongs to no segment; everything else to one.
  const segments = tensor(goldens.ints('mask').map((real) => real - 1), goldens.shape('mask'))
  const inputs = { segments, tokenTypes: goldens.tensors.types ? ids('types') : null }
  return { goldens, facts, model, inputs, ids }
}

describe.each([['f32', 3e-5], ['f64', 1e-11]] as const)('in %s', (dtype, bound) => {
  test.each(models)('%s: logits, loss and gradients', async (stem) => {
    const { goldens, facts, model, inputs, ids } = await load(stem, dtype)
    const classifies = model.config.classes > 0
    const logits = noGrad(() => (classifies ? model.classLogits : model.logits).call(model, ids('ids'), inputs))
    const actual = await logits.toFloat64()
    const expected = goldens.numbers('logits')
    // Where nothing real stands, a model may say anything.
    const mask = goldens.ints('mask')
    const width = logits.shape[logits.rank - 1]
    const counts = (_: number, i: number) => classifies || mask[Math.floor(i / width)] === 1
    expect(relative(Float64Array.from(actual).filter(counts), expected.filter(counts))).toBeLessThan(bound)
    const loss = scope(() => {
      const value = classifies ? model.classLoss(ids('ids'), ids('labels'), inputs) : model.loss(ids('ids'), ids('targets'), inputs)
      backward(value)
      return value.detach()
    })
    expect(Math.abs((await loss.item()) / facts.loss - 1)).toBeLessThan(bound)
    await checkGradients(model, bertNames(model), goldens, bound)
    model.dispose()
  })
})

test.each(models)('%s: names and configuration map both ways', async (stem) => {
  const { goldens, model } = await load(stem, 'f32')
  const saved = bertToForeign(model)
  expect([...saved.keys()].sort()).toEqual([...foreignTensors(goldens).keys()].filter((name) => !/decoder\.|vocab_projector\.weight/.test(name)).sort())
  for (const [name, value] of saved) expect([name, relative(await value.toFloat64(), goldens.numbers(`weights.${name}`))]).toEqual([name, 0])
  expect(new Bert({ ...bertConfig(bertForeignConfig(model)) }).config).toEqual(model.config)
})

test('a missing and an unknown tensor are refused by name', async () => {
  const { goldens, facts } = await load('bert', 'f32')
  const broken = (change: (tensors: ReturnType<typeof foreignTensors>) => void) => () => {
    const tensors = foreignTensors(goldens)
    change(tensors)
    bertFromForeign(facts.config, tensors)
  }
  const name = 'bert.encoder.layer.0.attention.self.key.bias'
  expect(broken((tensors) => tensors.delete(name))).toThrow(/missing bert\.encoder\.layer\.0\.attention\.self\.key\.bias/)
  expect(broken((tensors) => tensors.set('bert.pooler.dense.bias', tensors.get(name)!))).toThrow(/unknown bert\.pooler\.dense\.bias/)
})

test('published sizes: BERT base 109 482 240 without heads, DistilBERT 66 362 880', () => {
  const base = { vocab: 30522, context: 512, width: 768, heads: 12, maskedLM: false }
  const count = (model: Bert) => model.parameterCount()
  // The published count includes the pooler, 768 * 768 + 768.
  expect(count(new Bert({ ...base, layers: 12 }, { device: 'meta' })) + 768 * 769).toBe(109_482_240)
  expect(count(new Bert({ ...base, layers: 6, tokenTypes: 0 }, { device: 'meta' }))).toBe(66_362_880)
})

test('dropout is on in training alone, and checkpointing changes nothing', async () => {
  const shape = { vocab: 11, context: 8, layers: 2, width: 16, heads: 2, dropout: 0.5 }
  const model = new Bert(shape)
  const ids = tensor(Int32Array.from({ length: 16 }, (_, i) => i % 11), [2, 8])
  const run = async () => noGrad(() => model.call(ids)).toFloat64()
  expect(await run()).not.toEqual(await run())
  model.eval()
  const plain = await run()
  expect(await run()).toEqual(plain)
  ;(model.config as { checkpointing: boolean }).checkpointing = true
  expect(await run()).toEqual(plain)
})

test('the command line refuses what BERT does not have', () => {
  const shape = { vocab: 5, context: 4, layers: 1, width: 8, heads: 2 }
  expect(() => bert.create({ ...shape, positions: 'rotary' }, {})).toThrow(/positions is rotary/)
  expect(() => bert.create({ ...shape, kvHeads: 1 }, {})).toThrow(/kvHeads is 1/)
})
