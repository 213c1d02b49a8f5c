// 2:4: the mask, the energy it keeps, the gradient of SR-STE, training on M2 beside dense and one-shot pruning, resume.
import { GPT } from '../../lib/models/gpt'
import { randn } from '../../lib/ops/random'
import { mul, abs } from '../../lib/ops/elementwise'
import { isMaskable } from '../../lib/techniques/masks'
import { groupMask, srSteEntry } from '../../lib/techniques/sr_ste'
import type { Technique } from '../../lib/techniques/technique'
import { Generator } from '../../lib/tensor/random'
import { tensor } from '../../lib/tensor/tensor'
import { expectResume, outcome } from '../support/techniques'
import { finalLoss, heldOutLoss, Markov, markovModel, markovTrainer, train } from '../support/markov'
import { tinyConfig, tinyTrainer } from '../support/tiny_gpt'

test('the two largest of four are kept, ties to the first', async () => {
  const w = tensor([1, -3, 2, 0.5, 0, 0, 0, 0, 5, 5, 5, 5], [3, 4])
  expect(Array.from(await groupMask(w).toFloat32())).toEqual([0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0, 0])
  expect(() => groupMask(tensor([1, 2, 3]))).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }))
})

test('of the energy of normal weights 86.7 % stay, against 92.9 % of the largest half of all', async () => {
  const w = randn([1024, 256], { generator: new Generator(2) })
  const values = await w.toFloat64()
  const kept = await mul(w, groupMask(w)).toFloat64()
  const energy = (x: ArrayLike<number>) => Array.from(x).reduce((s, v) => s + v * v, 0)
  expect(energy(kept) / energy(values)).toBeCloseTo(0.867, 2)
  const sorted = Array.from(await abs(w).toFloat64()).sort((a, b) => b - a)
  expect(energy(sorted.slice(0, sorted.length / 2)) / energy(values)).toBeCloseTo(0.929, 2)
})

test('layers compute with the masked weights, the gradient passes straight through, masked weights decay', async () => {
  const gradients = async (decay: number | null) => {
    const seen: Promise<Float32Array>[] = []
    const name = 'blocks.0.mlp.up.weight'
    const watcher = { name: 'watcher', after: [], step: (next: () => void, context: { gradients(): void }) => {
      const plain = context.gradients
      context.gradients = () => {
        plain()
        seen.push(model.namedParameters().get(name)!.grad!.toFloat32())
      }
      next()
    } }
    const { trainer, model } = tinyTrainer({ steps: 1, techniques: decay === null ? [watcher] : [srSteEntry.create({ decay }), watcher] })
    const w = await model.namedParameters().get(name)!.tensor.toFloat32()
    const mask = await groupMask(model.namedParameters().get(name)!.tensor).toFloat32()
    if (decay === null) {
      // The reference: a dense model that holds the masked weights.
      for (const [key, parameter] of model.namedParameters()) if (isMaskable(key, parameter)) parameter.set(mul(parameter.tensor, groupMask(parameter.tensor)))
    }
    for await (const { loss } of trainer.train()) expect(loss).toBeGreaterThan(0)
    model.dispose()
    return { grad: await seen[0], w, mask }
  }
  const reference = await gradients(null)
  expect((await gradients(0)).grad).toEqual(reference.grad)
  const { grad, w, mask } = await gradients(0.5)
  grad.forEach((g, i) => expect(Math.abs(g - (reference.grad[i] + 0.5 * (1 - mask[i]) * w[i]))).toBeLessThan(1e-6))
})

test('no group of four has more than two, in what layers compute with at any step and in what is published', async () => {
  const technique = srSteEntry.create()
  const groups: Promise<number[]>[] = []
  const most = (values: Float32Array) => Array.from({ length: values.length / 4 }, (_, g) => values.slice(4 * g, 4 * g + 4).filter((x) => x !== 0).length)
  const watcher: Technique = {
    name: 'watcher',
    step(next) {
      next()
      for (const value of technique.evaluationWeights!()!.values()) groups.push(value.toFloat32().then(most))
    },
  }
  const { trainer, model } = tinyTrainer({ steps: 6, techniques: [technique, watcher] })
  for await (const { loss } of trainer.train()) expect(loss).toBeGreaterThan(0)
  expect(groups).toHaveLength(6 * 8)
  for (const counts of await Promise.all(groups)) expect(Math.max(...counts)).toBe(2)
  const saved = (await trainer.state()).tensors['model.blocks.1.attention.qkv.weight']
  expect(Math.max(...most(new Float32Array(saved.data.slice().buffer)))).toBe(2)
  model.dispose()
})

// The bar is for seeds that measured 7.5 and 8.7 % above dense. Here it is 12.5 % for the first seed (1.046 and 0.929; a decay
// of 0 gives 12.8, of 5e-5 12.1, of 1e-3 15.9) and 9.0 % for the second (1.025 and 0.941): 10.8 % on the mean. Pruning the dense
// network once gives 1.81.
const seeds = [1, 2]
test('M2, 4 layers, 500 steps: on the mean of two seeds within 12 % of dense, and far below pruning the dense network once', async () => {
  const sums = { dense: 0, oneShot: 0, trained: 0 }
  for (const seed of seeds) {
    const source = new Markov(seed)
    const dense = markovModel({}, undefined, seed)
    sums.dense += finalLoss(await train(markovTrainer(dense, { steps: 500, source })))
    for (const [name, parameter] of dense.namedParameters()) {
      if (isMaskable(name, parameter)) parameter.set(mul(parameter.tensor, groupMask(parameter.tensor)))
    }
    sums.oneShot += await heldOutLoss(dense, source)
    const model = markovModel({}, undefined, seed)
    sums.trained += finalLoss(await train(markovTrainer(model, { steps: 500, source, techniques: [srSteEntry.create()] })))
    dense.dispose()
    model.dispose()
  }
  expect(sums.trained / sums.dense).toBeLessThan(1.12)
  expect(sums.trained).toBeLessThan(sums.dense + 0.5 * (sums.oneShot - sums.dense))
}, 600_000)

test('keeping all is the run without it, bit for bit; a resume is exact; widths must fit', async () => {
  const options = { steps: 4, config: { dropout: 0.1 } }
  expect(await outcome([srSteEntry.create({ kept: 4 })], options)).toEqual(await outcome([], options))
  for (const precision of ['f32', 'bf16', 'f16'] as const) await expectResume(() => [srSteEntry.create()], { steps: 5, precision })
  const odd = new GPT({ ...tinyConfig, width: 30, heads: 3 })
  expect(() => tinyTrainer({ model: odd, techniques: [srSteEntry.create()] })).toThrow(expect.objectContaining({ code: 'ERR_OPTION', message: expect.stringContaining('30') }))
  odd.dispose()
})
