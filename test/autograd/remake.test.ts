// What the tape makes again instead of holding it: the same bits, and how much memory that saves.
import { backward } from '../../lib/autograd/backward'
import { withCheapRemade } from '../../lib/autograd/tape'
import { add } from '../../lib/ops/elementwise'
import { feedForward, linear } from '../../lib/ops/linear'
import { layerNorm } from '../../lib/ops/layer_norm'
import { rmsNorm } from '../../lib/ops/rms_norm'
import { randn } from '../../lib/ops/random'
import { sum } from '../../lib/ops/reductions'
import { swiglu } from '../../lib/ops/swiglu'
import { getDevice, liveHandles, setDefaultDevice } from '../../lib/tensor/device'
import { seed } from '../../lib/tensor/random'
import { keep, scope } from '../../lib/tensor/scope'
import { run, run1, setRequiresGrad, type Tensor } from '../../lib/tensor/tensor'
import { collectGarbage } from '../support/garbage'

// On CUDA the hidden layer is saved: the library's fused epilogue writes it at no cost.
beforeAll(() => setDefaultDevice('cpu'))
beforeAll(collectGarbage)

const device = getDevice('cpu')
const [rows, width] = [64, 32]

const cheap: Record<string, (x: Tensor, w: Tensor) => Tensor> = {
  layerNorm: (x, w) => layerNorm(x, w),
  rmsNorm: (x, w) => rmsNorm(x, w),
  swiglu: (x, w) => swiglu(x, add(x, w)),
}

test.each(Object.keys(cheap))('the result of %s is not held for the product after it; the gradients keep their bits', async (name) => {
  const measure = async (held: boolean) => {
    seed(5)
    const [x, gain, w] = [[rows, width], [width], [width, width]].map((shape) => keep(setRequiresGrad(randn(shape))))
    await device.synchronize()
    const before = device.stats().liveBytes
    const handles = liveHandles()
    const bytes = scope(() => {
      const y = scope(() => {
        const product = () => linear(cheap[name](x, gain), w)
        return held ? product() : withCheapRemade(product)
      })
      const found = device.stats().liveBytes - before
      backward(sum(y))
      return found
    })
    const grads = await Promise.all([x, gain, w].map((leaf) => leaf.grad!.data()))
    for (const leaf of [x, gain, w]) leaf.grad!.dispose()
    expect(liveHandles()).toBe(handles)
    for (const leaf of [x, gain, w]) leaf.dispose()
    return { bytes, grads }
  }
  const [plain, again] = [await measure(true), await measure(false)]
  expect(again.grads).toEqual(plain.grads)
  expect(plain.bytes - again.bytes).toBe(rows * width * 4)
})

test('the hidden layer of a feed-forward block is not held: beside the result only its pre-activations are', () => {
  const hidden = 4 * width
  const [x, up, down] = [[rows, width], [hidden, width], [width, hidden]].map((shape) => keep(setRequiresGrad(randn(shape))))
  const before = device.stats().liveBytes
  scope(() => {
    const y = scope(() => feedForward(x, { up, down }, 'gelu'))
    expect(device.stats().liveBytes - before).toBe(4 * rows * (hidden + width))
    backward(sum(y))
  })
  for (const leaf of [x, up, down]) {
    leaf.grad!.dispose()
    leaf.dispose()
  }
})

test('backward() refuses where an input of what it must compute again was changed', () => {
  const x = keep(setRequiresGrad(randn([4, 8])))
  const w = keep(setRequiresGrad(randn([8, 8])))
  scope(() => {
    const y = withCheapRemade(() => linear(layerNorm(x), w))
    run('accumulate', [x, run1('copy', [x], {})], {})
    expect(() => backward(sum(y))).toThrow(expect.objectContaining({ code: 'ERR_ARGUMENT', message: expect.stringContaining('linear saved was changed') }))
  })
  for (const leaf of [x, w]) {
    leaf.grad?.dispose()
    leaf.dispose()
  }
})

test('a tensor that is changed in place is held as it is from then on', async () => {
  const [x, w] = [[4, 8], [8, 8]].map((shape) => keep(setRequiresGrad(randn(shape))))
  const twice = await scope(() => {
    const h = withCheapRemade(() => layerNorm(x))
    const other = run1('copy', [h], {})
    // h becomes 2 h: computed again it would be h.
    run('accumulate', [h, other], {})
    backward(sum(linear(h, w)))
    return run1('sum', [h], { axes: [0], keepdims: false })
  }).data()
  const found = (await w.grad!.data()) as Float32Array
  // d sum(h w^T) / dw: the column sums of h in every row.
  for (let i = 0; i < found.length; ++i) expect(found[i]).toBeCloseTo((twice as Float32Array)[i % 8], 5)
  for (const leaf of [x, w]) {
    leaf.grad?.dispose()
    leaf.dispose()
  }
})
