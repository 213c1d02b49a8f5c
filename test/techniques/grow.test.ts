// Growth: identity layers change nothing at all, doubled width changes nothing but rounding, gradients and moments follow.
import { backward } from '../../lib/autograd/backward'
import { GPT, type GPTConfig } from '../../lib/models/gpt'
import { growDepth, growWidth, widenState } from '../../lib/techniques/grow'
import { AdamW } from '../../lib/optim/adamw'
import { decayGroups } from '../../lib/optim/optimizer'
import { seed } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { logitsOf } from '../support/depth'
import { tinyConfig, tokenBatch } from '../support/tiny_gpt'

/** A model whose weights are large enough for errors to show, after `steps` of training. */
function trained(config: Partial<GPTConfig> = {}, steps = 2): { model: GPT; optimizer: AdamW; step: (m?: GPT, o?: AdamW) => void } {
  seed(1)
  const model = new GPT({ ...tinyConfig, ...config })
  const optimizer = new AdamW(decayGroups(model.namedParameters(), 0.1))
  const step = (m: GPT = model, o: AdamW = optimizer) => {
    const { inputs, targets, context } = tokenBatch(0, 4)
    o.zeroGrad()
    scope(() => backward(m.loss(tensor(inputs, [4, context]), tensor(targets, [4, context]))))
    o.step(3e-3)
  }
  for (let i = 0; i < steps; ++i) step()
  return { model, optimizer, step }
}

const worst = (a: Float64Array, b: Float64Array) => a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0)

test('identity layers: logits stay bit for bit, the new layers train', async () => {
  const { model, optimizer, step } = trained()
  const before = await logitsOf(model)
  growDepth(model, 'identity', optimizer)
  expect(model.blocks).toHaveLength(4)
  expect(worst(await logitsOf(model), before)).toBe(0)
  const fresh = await model.blocks[3].mlp.down.weight.tensor.toFloat64()
  step()
  expect(worst(await model.blocks[3].mlp.down.weight.tensor.toFloat64(), fresh)).toBeGreaterThan(1e-4)
  model.dispose()
})

test('stacked layers have the weights and the moments of those below', async () => {
  const { model, optimizer, step } = trained()
  growDepth(model, 'stack', optimizer)
  const { tensors, steps } = optimizer.state()
  expect(steps).toBe(2)
  for (const slot of ['m', 'v']) {
    expect(await tensors.get(`${slot}.blocks.2.mlp.up.weight`)!.data()).toEqual(await tensors.get(`${slot}.blocks.0.mlp.up.weight`)!.data())
  }
  expect(await model.blocks[3].attention.qkv.weight.tensor.data()).toEqual(await model.blocks[1].attention.qkv.weight.tensor.data())
  // Matrices with decay, vectors without: like those below.
  for (const { parameters } of optimizer.groups) {
    expect(parameters.has('blocks.3.mlp.up.weight')).toBe(parameters.has('blocks.1.mlp.up.weight'))
  }
  step()
  model.dispose()
})

test.each<[string, Partial<GPTConfig>]>([
  ['the default', {}],
  ['an own head, RMS norm, SwiGLU, rotary positions and grouped queries', { tiedHead: false, norm: 'rms_norm', activation: 'swiglu', positions: 'rotary', kvHeads: 2, bias: false }],
  ['scaled embeddings, gates and no norm', { norm: 'none', gates: 'branch', gateStart: 0.5, scaleEmbeddings: true }],
])('twice the width, %s: logits within 1e-5, gradients and moments as foretold', async (_, config) => {
  const { model, optimizer, step } = trained(config)
  const before = await logitsOf(model)
  const wide = growWidth(model, 2)
  expect([wide.config.width, wide.config.heads]).toEqual([2 * model.config.width, 2 * model.config.heads])
  expect(worst(await logitsOf(wide), before)).toBeLessThan(1e-5)
  // The next step of both: the wide model with the widened state does what the narrow one does.
  const wideOptimizer = new AdamW(decayGroups(wide.namedParameters(), 0))
  const narrow = new AdamW(decayGroups(model.namedParameters(), 0))
  narrow.load(optimizer.state())
  widenState(model, 2, narrow, wideOptimizer)
  step(model, narrow)
  step(wide, wideOptimizer)
  for (const [name, { tensor: value }] of wide.namedParameters()) {
    if (!/mlp\.down\.weight|token_embedding/.test(name)) continue
    const m = narrow.state().tensors.get(`m.${name}`)!
    const grown = await wideOptimizer.state().tensors.get(`m.${name}`)!.toFloat64()
    const old = await m.toFloat64()
    const share = /embedding/.test(name) && config.scaleEmbeddings ? Math.SQRT2 / 2 : 1 / 2
    const columns = value.shape[1]
    const scale = Math.max(...old.map(Math.abs))
    for (let r = 0; r < m.shape[0]; ++r) {
      for (let c = 0; c < m.shape[1]; ++c) {
        expect(Math.abs(grown[r * columns + c] - share * old[r * m.shape[1] + c])).toBeLessThan(1e-4 * scale)
      }
    }
  }
  model.dispose()
  wide.dispose()
})

test('noise tells the copies apart; what cannot be widened is refused', async () => {
  const { model } = trained({}, 0)
  const wide = growWidth(model, 3, { noise: 0.01 })
  const rows = await wide.blocks[0].mlp.up.weight.tensor.toFloat64()
  const half = rows.length / 3
  expect(worst(rows.subarray(0, half), rows.subarray(half, 2 * half))).toBeGreaterThan(0)
  expect(() => growWidth(model, 1.5)).toThrow(expect.objectContaining({ code: 'ERR_ARGUMENT' }))
  const alibi = new GPT({ ...tinyConfig, positions: 'alibi' })
  expect(() => growWidth(alibi)).toThrow(/repeated/)
  for (const m of [model, wide, alibi]) m.dispose()
})
