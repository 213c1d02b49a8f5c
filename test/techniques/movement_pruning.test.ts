// Movement pruning: the gradients of the scores, the kept share, better than magnitude where large weights must shrink.
import { backward } from '../../lib/autograd/backward'
import { Parameter } from '../../lib/nn/parameter'
import { cast } from '../../lib/ops/cast'
import { matmul } from '../../lib/ops/matmul'
import { mul, square, sub } from '../../lib/ops/elementwise'
import { sum } from '../../lib/ops/reductions'
import { Adam } from '../../lib/optim/adam'
import { keepLargest } from '../../lib/techniques/masks'
import { movementGradients, movementPruningEntry } from '../../lib/techniques/movement_pruning'
import { hostRandom } from '../../lib/tensor/random'
import { keep, scope } from '../../lib/tensor/scope'
import { setRequiresGrad, tensor, type Tensor } from '../../lib/tensor/tensor'
import { expectResume, outcome } from '../support/techniques'
import { tinyTrainer } from '../support/tiny_gpt'

const f64 = (values: ArrayLike<number>, shape: number[]) => tensor(Float64Array.from(values), shape, { dtype: 'f64' })

test('dL/dS is the gradient of S when the mask is S itself, dL/dW that of W', async () => {
  const random = hostRandom({ seed: 1, offset: 0 })
  const draw = (shape: number[]) => f64(Array.from({ length: shape[0] * shape[1] }, () => random.normal()), shape)
  const [w, s, x] = [setRequiresGrad(draw([3, 4])), setRequiresGrad(draw([3, 4])), draw([5, 4])]
  scope(() => backward(sum(square(matmul(x, mul(w, s), { transposeB: true })))))
  const product = setRequiresGrad(keep(scope(() => mul(w.detach(), s.detach()))))
  scope(() => backward(sum(square(matmul(x, product, { transposeB: true })))))
  const parts = movementGradients(w.detach(), s.detach(), product.grad!)
  const equal = async (a: Tensor, b: Tensor) => {
    const [p, q] = [await a.toFloat64(), await b.toFloat64()]
    p.forEach((v, i) => expect(Math.abs(v - q[i])).toBeLessThan(1e-12 * Math.max(1, Math.abs(q[i]))))
  }
  await equal(parts.scores, s.grad!)
  await equal(parts.weight, w.grad!)
})

test('from weights of which the large ones must shrink, movement beats magnitude at 10 % kept', async () => {
  const random = hostRandom({ seed: 2, offset: 0 })
  const [inputs, rows] = [40, 64]
  // The target needs the 4 inputs whose "pre-trained" weights are small.
  const target = Float64Array.from({ length: inputs }, (_, i) => (i < 4 ? 1 : 0))
  const start = Float64Array.from({ length: inputs }, (_, i) => (i < 4 ? 0.05 : 1))
  const x = f64(Array.from({ length: rows * inputs }, () => random.normal()), [rows, inputs])
  const wanted = scope(() => matmul(x, f64(target, [1, inputs]), { transposeB: true }))
  const loss = (w: Tensor) => sum(square(sub(matmul(x, w, { transposeB: true }), wanted)))
  const w = new Parameter(f64(start, [1, inputs]))
  const s = new Parameter(f64(new Float64Array(inputs), [1, inputs]))
  const optimizers = [new Adam([{ parameters: new Map([['w', w]]) }]), new Adam([{ parameters: new Map([['s', s]]) }])]
  const mask = (share: number) => keepLargest(s.tensor.detach(), Math.round(share * inputs))
  for (let step = 0; step < 30; ++step) {
    scope(() => {
      const kept = cast(mask(1 - 0.9 * Math.min(1, step / 20)), 'f64')
      const masked = setRequiresGrad(mul(w.tensor.detach(), kept))
      backward(loss(masked))
      const parts = movementGradients(w.tensor.detach(), kept, masked.grad!)
      w.tensor.grad = keep(parts.weight)
      s.tensor.grad = keep(parts.scores)
      for (const optimizer of optimizers) {
        optimizer.step(0.02)
        optimizer.zeroGrad()
      }
    })
  }
  const kept = await mask(0.1).toFloat32()
  expect(Array.from(kept).flatMap((one, i) => (one ? [i] : []))).toEqual([0, 1, 2, 3])
  const byMagnitude = await keepLargest(f64(start, [1, inputs]), 4).toFloat32()
  expect(byMagnitude.slice(0, 4).every((one) => one === 0)).toBe(true)
})

test('the kept share is exact, evaluation and checkpoints have the pruned weights', async () => {
  const technique = movementPruningEntry.create({ kept: 0.15, start: 0, end: 0.5 })
  const { trainer, model } = tinyTrainer({ steps: 12, techniques: [technique] })
  for await (const { loss } of trainer.train()) expect(loss).toBeGreaterThan(0)
  const saved = await trainer.state()
  const values = new Float32Array(saved.tensors['model.blocks.0.mlp.up.weight'].data.slice().buffer)
  expect(values.filter((x) => x !== 0).length).toBe(Math.round(0.15 * values.length))
  expect(await trainer.summary()).toEqual([expect.stringMatching(/^movement pruning: 15\.0 %/)])
  model.dispose()
})

test('keeping all is the run without it, bit for bit; a resume is exact', async () => {
  const options = { steps: 4, config: { dropout: 0.1 } }
  expect(await outcome([movementPruningEntry.create({ kept: 1 })], options)).toEqual(await outcome([], options))
  await expectResume(() => [movementPruningEntry.create({ start: 0, end: 0.5 })], { precision: 'bf16' }, [2, 5])
})
