// ViT against transformers and ConViT against timm (test/goldens/models.py): logits, loss, gradients, names both ways.
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import { ViT, vitConfig, type ViTConfig } from '../../lib/models/vit'
import { cast } from '../../lib/ops/cast'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { checkGradients, foreignTensors, goldenFacts, goldenTensors, relative } from '../support/goldens'

/** timm's arguments as our configuration; its width is given per head. */
function convitConfig({ shape: s }: ReturnType<typeof goldenFacts>): ViTConfig {
  const width = s.embed_dim * s.num_heads
  return {
    image: s.img_size, patch: s.patch_size, classes: s.num_classes, layers: s.depth, width, heads: s.num_heads,
    hidden: s.mlp_ratio * width, normEps: 1e-6, qkvBias: false, gpsaLayers: s.local_up_to_layer,
  }
}

async function load(stem: string, dtype: 'f32' | 'f64') {
  const goldens = await goldenTensors(stem)
  const facts = goldenFacts(stem)
  const config = stem === 'vit' ? vitConfig(facts.config) : convitConfig(facts)
  const model = scope(() => new ViT(config, { dtype }).loadForeign(foreignTensors(goldens)))
  return { goldens, facts, model }
}

describe.each([['f32', 3e-5], ['f64', 1e-6]] as const)('in %s', (dtype, bound) => {
  // timm makes its relative positions in f32, exactly; transformers computes in the model's own format.
  test.each(['vit', 'convit'])('%s: logits, loss and gradients', async (stem) => {
    const { goldens, facts, model } = await load(stem, dtype)
    const images = cast(tensor(Float32Array.from(goldens.numbers('pixels')), goldens.shape('pixels')), dtype)
    const labels = tensor(goldens.ints('labels'), goldens.shape('labels'))
    expect(relative(await noGrad(() => model.logits(images)).toFloat64(), goldens.numbers('logits'))).toBeLessThan(bound)
    const loss = scope(() => {
      const value = model.loss(images, labels)
      backward(value)
      return value.detach()
    })
    expect(Math.abs((await loss.item()) / facts.loss - 1)).toBeLessThan(bound)
    await checkGradients(model, model.foreignNames(), goldens, bound)
    model.dispose()
  })
})

test.each(['vit', 'convit'])('%s: names map both ways; what is missing is named', async (stem) => {
  const { goldens, model } = await load(stem, 'f32')
  const saved = model.toForeign()
  expect([...saved.keys()].sort()).toEqual([...foreignTensors(goldens).keys()].sort())
  for (const [name, value] of saved) {
    if (!/pos_proj\.bias/.test(name)) expect([name, relative(await value.toFloat64(), goldens.numbers(`weights.${name}`))]).toEqual([name, 0])
  }
  const name = [...saved.keys()].find((each) => /(query|qk)\.weight/.test(each))!
  saved.delete(name)
  expect(() => model.loadForeign(saved)).toThrow(expect.objectContaining({ code: 'ERR_CHECKPOINT', message: expect.stringContaining(`missing ${name}`) }))
})

test('images and patches that do not fit are refused', () => {
  const config = { image: 8, patch: 4, classes: 2, layers: 1, width: 8, heads: 2 }
  expect(() => new ViT({ ...config, patch: 3 })).toThrow(/8 pixels does not divide into patches of 3/)
  expect(() => new ViT({ ...config, gpsaLayers: 2 })).toThrow(/gpsaLayers is 2 of 1/)
  expect(() => new ViT(config).logits(tensor(new Float32Array(3 * 64), [1, 1, 8, 24]))).toThrow(/needs \[batch, 3, 8, 8\]/)
})
