// Tensors of given numbers.
import { dtypes, isFloating } from '../../lib/native/dtype'
import { arange, full, ones, onesLike, zeros, zerosLike } from '../../lib/ops/creation'
import { run1, tensor, type Tensor } from '../../lib/tensor/tensor'
import { host, jestOnly, opCase } from '../support/op_case'

opCase<{ shape: number[]; value: number }>({
  name: 'full',
  ops: ['fill'],
  run: ([like], { shape, value }) => full(shape, value, { dtype: like.dtype, device: like.device }),
  reference: (_, { shape, value }) => host(shape, () => value),
  samples: [[], [0, 3], [2, 33], [71]].map((shape) => ({
    inputs: [{ shape: [], grad: false }],
    attrs: { shape, value: 1 },
  })),
  dtypes,
  noGradient: 'it has no inputs',
  errors: [
    { what: 'a negative size', call: () => zeros([2, -1]), code: 'ERR_SHAPE', text: ['fill', 'axis 1', '-1'] },
    { what: 'too many axes', call: () => zeros([1, 1, 1, 1, 1, 1, 1, 1, 1]), code: 'ERR_SHAPE', text: ['fill', '9 axes'] },
    { what: 'a device that is not there', call: () => ones([1], { device: 'tpu' }), code: 'ERR_DEVICE', text: ['tpu'] },
  ],
})

opCase({
  name: 'copy',
  ops: ['copy'],
  run: ([x]) => run1('copy', [x], {}),
  reference: ([x]) => host(x.shape, x.data),
  samples: [[[]], [[0, 3]], [[2, 33]], [[71]]],
  dtypes,
  noGradient: 'it is not on the tape',
  bench: [{ inputs: [[1024, 1024]] }],
})

jestOnly(() => {
  const values = async (x: Tensor) => [...(await x.toFloat64())]

  test('values in every format', async () => {
    for (const dtype of dtypes) {
      expect(await values(zeros([2], { dtype }))).toEqual([0, 0])
      expect(await values(ones([2], { dtype }))).toEqual([1, 1])
      if (isFloating(dtype)) expect(await values(full([1], -1.5, { dtype }))).toEqual([-1.5])
    }
  })

  test('like another tensor', async () => {
    const x = tensor([[1, 2]], null, { dtype: 'bf16' })
    for (const [y, value] of [[zerosLike(x), 0], [onesLike(x), 1]] as const) {
      expect([y.dtype, y.shape, await values(y)]).toEqual(['bf16', [1, 2], [value, value]])
    }
  })

  test('arange', async () => {
    expect([arange(3).dtype, await values(arange(3))]).toEqual(['i32', [0, 1, 2]])
    expect(await values(arange(1, { start: 0, step: 0.3, dtype: 'f64' }))).toEqual([0, 0.3, 0.6, 0.3 * 3])
    expect(await values(arange(-3, { step: -1 }))).toEqual([0, -1, -2])
    expect(await values(arange(0))).toEqual([])
  })

  test('requiresGrad makes a leaf', () => {
    expect([zeros([1]).requiresGrad, zeros([1], { requiresGrad: true }).requiresGrad]).toEqual([false, true])
  })
})
