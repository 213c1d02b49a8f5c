// The encoder-decoder against transformers' BART (test/goldens/models.py), with a padded source; the pre-norm form by
// finite differences and by what a decoder must not see.
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { EncoderDecoder } from '../../lib/models/encoder_decoder'
import { seed } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { checkGradients, foreignTensors, goldenFacts, goldenTensors, relative, type Goldens } from '../support/goldens'

const golden = goldenFacts('bart')
let goldens: Goldens
beforeAll(async () => {
  goldens = await goldenTensors('bart')
})
const ids = (name: string) => tensor(goldens.ints(name), goldens.shape(name))
const segments = () => tensor(goldens.ints('mask').map((real) => real - 1), goldens.shape('mask'))

test.each([['f32', 3e-5], ['f64', 1e-11]] as const)('BART in %s: logits, loss and gradients', async (dtype, bound) => {
  const model = scope(() => EncoderDecoder.fromForeign(golden.config, foreignTensors(goldens), { dtype }))
  const inputs = { segments: segments() }
  const logits = noGrad(() => model.logits(ids('source'), ids('ids'), inputs))
  expect(relative(await logits.toFloat64(), goldens.numbers('logits'))).toBeLessThan(bound)
  const loss = scope(() => {
    const value = model.loss(ids('source'), ids('ids'), ids('targets'), inputs)
    backward(value)
    return value.detach()
  })
  expect(Math.abs((await loss.item()) / golden.loss - 1)).toBeLessThan(bound)
  await checkGradients(model, model.foreignNames(), goldens, bound)
  model.dispose()
})

test('names map both ways; what is missing is named', async () => {
  const model = scope(() => EncoderDecoder.fromForeign(golden.config, foreignTensors(goldens)))
  const saved = model.toForeign()
  expect([...saved.keys()].sort()).toEqual([...foreignTensors(goldens).keys()].sort())
  for (const [name, value] of saved) {
    if (name !== 'final_logits_bias') expect([name, relative(await value.toFloat64(), goldens.numbers(`weights.${name}`))]).toEqual([name, 0])
  }
  saved.delete('model.decoder.layers.1.encoder_attn.v_proj.bias')
  expect(() => EncoderDecoder.fromForeign(golden.config, saved)).toThrow(/missing model\.decoder\.layers\.1\.encoder_attn\.v_proj\.bias/)
})

describe.each(['pre', 'post', 'none'] as const)('norm: %s', (norm) => {
  const config = { vocab: 13, context: 8, encoderLayers: 1, decoderLayers: 2, width: 8, heads: 2, norm }
  const source = () => tensor(Int32Array.from([1, 5, 7, 3, 9, 2]), [1, 6])
  const target = () => tensor(Int32Array.from([4, 8, 1]), [1, 3])

  test('a later target token and a padded source token change nothing before them', async () => {
    seed(2)
    const model = new EncoderDecoder(config)
    const run = async (s: number[], t: number[]) => {
      const padded = tensor(Int32Array.from([0, 0, 0, 0, 0, -1]), [1, 6])
      return noGrad(() => model.call(tensor(Int32Array.from(s), [1, 6]), tensor(Int32Array.from(t), [1, 3]), { segments: padded })).toFloat64()
    }
    const a = await run([1, 5, 7, 3, 9, 2], [4, 8, 1])
    const b = await run([1, 5, 7, 3, 9, 11], [4, 8, 6])
    const c = await run([1, 5, 7, 3, 0, 2], [4, 8, 1])
    expect(b.slice(0, 16)).toEqual(a.slice(0, 16))
    expect(b.slice(16)).not.toEqual(a.slice(16))
    expect(c.slice(0, 8)).not.toEqual(a.slice(0, 8))
  })

  test('gradients are finite differences', async () => {
    seed(3)
    const model = new EncoderDecoder(config, { dtype: 'f64' })
    const targets = tensor(Int32Array.from([8, 1, 2]), [1, 3])
    const value = async () => scope(() => noGrad(() => model.loss(source(), target(), targets))).item()
    scope(() => backward(model.loss(source(), target(), targets)))
    for (const [name, parameter] of model.namedParameters()) {
      const grad = await parameter.grad!.toFloat64()
      const before = Float64Array.from(await parameter.tensor.toFloat64())
      const at = grad.length >> 1
      const shifted = async (h: number) => {
        parameter.set(tensor(before.map((x, i) => (i === at ? x + h : x)), parameter.shape, { dtype: 'f64' }))
        return value()
      }
      const slope = ((await shifted(1e-5)) - (await shifted(-1e-5))) / 2e-5
      parameter.set(tensor(before, parameter.shape, { dtype: 'f64' }))
      expect([name, Math.abs(slope - grad[at]) < 1e-8]).toEqual([name, true])
    }
  })
})
