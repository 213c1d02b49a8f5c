// Rules for larger batches: published factors, and SGD on a noisy quadratic below and above the noise scale.
import { batchPrice, lambRecipe, saturatingRate, scaleDecay, scaleLearningRate } from '../../lib/optim/batch_scaling'
import { SGD } from '../../lib/optim/sgd'
import { Parameter } from '../../lib/nn/parameter'
import { add, mulScalar } from '../../lib/ops/elementwise'
import { randn } from '../../lib/ops/random'
import { noGrad } from '../../lib/autograd/tape'
import { Generator } from '../../lib/tensor/random'
import { keep, scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'

test('from 256 to 8192: 32 times by the linear rule, 5.66 times by the square root', () => {
  const sizes = { from: 256, to: 8192 }
  expect(scaleLearningRate(1, { ...sizes, rule: 'linear' })).toBe(32)
  expect(scaleLearningRate(1, { ...sizes, rule: 'sqrt' })).toBeCloseTo(5.657, 3)
  expect(scaleDecay(0.999, { from: 256, to: 512 })).toBeCloseTo(0.999 ** 2, 15)
  expect(saturatingRate(1, { batch: 100, noise: 100 })).toBe(0.5)
  expect(batchPrice(100, 100)).toEqual({ steps: 2, examples: 2 })
  expect(() => scaleLearningRate(1, { from: 0, to: 1, rule: 'sqrt' })).toThrow(expect.objectContaining({ code: 'ERR_ARGUMENT' }))
})

test('the settings of LAMB for BERT', () => {
  expect(lambRecipe(32768)).toEqual({ lr: 5e-3, warmupFraction: 1 / 5 })
  expect(lambRecipe(512).lr).toBeCloseTo(5e-3 / 8, 12)
  expect(lambRecipe(512).warmupFraction).toBeCloseTo(1 / 320, 12)
})

/** Losses of SGD on 1/2 p^2 with gradient noise of variance `noise` an example, by number of `every` examples seen. */
async function curve(batch: number, lr: number, noise: number, examples: number, every: number): Promise<number[]> {
  const width = 16_384
  const parameter = new Parameter(tensor(new Float32Array(width).fill(1)))
  const optimizer = new SGD([{ parameters: new Map([['p', parameter]]) }])
  const generator = new Generator(batch)
  const losses: number[] = []
  for (let seen = batch; seen <= examples; seen += batch) {
    scope(() =>
      noGrad(() => {
        const g = add(parameter.tensor, mulScalar(randn([width], { generator }), Math.sqrt(noise / batch)))
        parameter.tensor.grad = keep(g)
        optimizer.step(lr)
        optimizer.zeroGrad()
      }),
    )
    if (seen % every === 0) losses.push((await parameter.tensor.toFloat32()).reduce((s, x) => s + (x * x) / 2, 0) / width)
  }
  optimizer.dispose()
  parameter.dispose()
  return losses
}

test('with the linear rule the curves by examples coincide to 5 % below the noise scale, and part above it', async () => {
  const lr = (batch: number, base: number) => scaleLearningRate(base, { from: 8, to: batch, rule: 'linear' })
  // The noise scale is tr(S) / |G|^2 = noise / p^2, at least `noise` as p falls from 1.
  const below = await Promise.all([8, 32, 128].map((batch) => curve(batch, lr(batch, 1e-3), 2000, 2048, 512)))
  for (const other of below.slice(1)) other.forEach((x, i) => expect(Math.abs(x / below[0][i] - 1)).toBeLessThan(0.05))
  // The same rates as shares of the largest stable one, with noise that no batch here averages out.
  const above = await Promise.all([8, 32, 128].map((batch) => curve(batch, lr(batch, 0.11), 1, 512, 512)))
  expect(Math.abs(above[2][0] / above[0][0] - 1)).toBeGreaterThan(0.5)
})
