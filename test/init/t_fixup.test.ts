// T-Fixup: deviations of decoder-only models, encoders and decoders with cross-attention.
import { tFixup, tFixupEmbeddingScale, tFixupEntry, tFixupScale } from '../../lib/init/t_fixup'
import { EncoderDecoder } from '../../lib/models/encoder_decoder'
import { Generator } from '../../lib/tensor/random'
import { slice } from '../../lib/ops/slice'
import { scope } from '../../lib/tensor/scope'
import type { Tensor } from '../../lib/tensor/tensor'
import { markovModel } from '../support/markov'
import { deviation } from '../support/statistics'

const xavier = (rows: number, columns: number) => Math.sqrt(2 / (rows + columns))
const near = (seen: number, wanted: number) => expect(Math.abs(seen / wanted - 1)).toBeLessThan(0.03)

/** Rows of a matrix. */
const rowsOf = (x: Tensor, from: number, to: number) => scope(() => slice(x, [from, 0], [to, x.shape[1]]))

test.each([6, 24, 96])('decoder-only, %i layers: values, outputs and both feed-forward matrices have 0.67 L^(-1/4) of Xavier', async (layers) => {
  const d = 64
  const model = markovModel({ layers }, tFixupEntry.create())
  const scale = 0.67 * layers ** -0.25
  const mean = async (pick: (block: (typeof model.blocks)[number]) => Tensor) => {
    const seen = await Promise.all(model.blocks.map((block) => deviation(pick(block))))
    return Math.sqrt(seen.reduce((sum, x) => sum + x * x, 0) / seen.length)
  }
  near(await mean(({ attention }) => rowsOf(attention.qkv.weight.tensor, 2 * d, 3 * d)), scale * xavier(d, d))
  near(await mean(({ attention }) => rowsOf(attention.qkv.weight.tensor, 0, 2 * d)), Math.SQRT1_2 * xavier(d, d))
  near(await mean(({ attention }) => attention.out.weight.tensor), scale * xavier(d, d))
  near(await mean(({ mlp }) => mlp.up.weight.tensor), scale * xavier(d, 4 * d))
  near(await mean(({ mlp }) => mlp.down.weight.tensor), scale * xavier(d, 4 * d))
  expect(Math.abs((await deviation(model.tokenEmbedding.weight.tensor)) / ((9 * layers) ** -0.25 / 8) - 1)).toBeLessThan(0.1)
  expect(model.norm).toBeNull()
  model.dispose()
})

test('the three matrices of SwiGLU share the square of the factor', async () => {
  const model = markovModel({ layers: 6, width: 128, activation: 'swiglu' }, tFixupEntry.create())
  const { up, down } = model.blocks[2].mlp
  const factors = [(await deviation(up.weight.tensor)) / xavier(512, 128), (await deviation(down.weight.tensor)) / xavier(512, 128)]
  const scale = tFixupScale('decoder_only', 6)
  near(factors[0] ** 2 * factors[1], scale ** 2)
  near(factors[0], factors[1])
  model.dispose()
})

test('encoder and decoder, each by its own layers; the shared embedding once', async () => {
  const width = 128
  const model = new EncoderDecoder({ vocab: 500, context: 16, encoderLayers: 4, decoderLayers: 9, width, heads: 4, norm: 'none', scaleEmbeddings: true })
  tFixup(model, new Generator(1))
  const square = xavier(width, width)
  const [encoder, decoder] = [model.encoder[1], model.decoder[5]]
  near(await deviation(encoder.attention.out.weight.tensor), tFixupScale('encoder', 4) * square)
  near(tFixupScale('encoder', 4), 0.67 * 4 ** -0.25)
  near(tFixupScale('decoder', 9), 81 ** -0.25)
  near(await deviation(decoder.attention.out.weight.tensor), tFixupScale('decoder', 9) * square)
  near(await deviation(decoder.cross.out.weight.tensor), tFixupScale('decoder', 9) * square)
  near(await deviation(rowsOf(decoder.cross.kv.weight.tensor, width, 2 * width)), tFixupScale('decoder', 9) * square)
  near(await deviation(rowsOf(decoder.cross.kv.weight.tensor, 0, width)), Math.SQRT1_2 * square)
  near(await deviation(decoder.cross.q.weight.tensor), Math.SQRT1_2 * square)
  near(await deviation(decoder.mlp.up.weight.tensor), tFixupScale('decoder', 9) * xavier(width, 4 * width))
  near(await deviation(model.tokenEmbedding.weight.tensor), tFixupEmbeddingScale(4) / Math.sqrt(width))
  model.dispose()
})
