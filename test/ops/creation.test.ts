// Tensors of given numbers.
import { dtypes, isFloating } from '../../lib/native/dtype'
import { accumulate } from '../../lib/ops/accumulate'
import { arange, full, ones, onesLike, zeros, zerosLike } from '../../lib/ops/creation'
import { copy } from '../../lib/ops/copy'
import { tensor, type Tensor } from '../../lib/tensor/tensor'
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
    ...([['i32', 1.5], ['i8', 128], ['u8', -1], ['i64', 2 ** 53], ['bool', 2]] as const).map(([dtype, value]) => ({
      what: `${value} as ${dtype}`,
      call: () => full([2], value, { dtype }),
      code: 'ERR_ARGUMENT',
      text: ['full', String(value), dtype],
    })),
    { what: 'a device that is not there', call: () => ones([1], { device: 'tpu' }), code: 'ERR_DEVICE', text: ['tpu'] },
  ],
})

opCase({
  name: 'copy',
  ops: ['copy'],
  run: ([x]) => copy(x),
  reference: ([x]) => host(x.shape, x.data),
  samples: [[[]], [[0, 3]], [[2, 33]], [[71]]],
  dtypes,
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
    expect(await values(arange(0, { start: 0.5, step: 0.5 }))).toEqual([])
    expect(await values(arange(128, { start: 126, dtype: 'i8' }))).toEqual([126, 127])
    const refused = expect.objectContaining({ code: 'ERR_ARGUMENT', message: expect.stringMatching(/^arange: /) })
    for (const options of [{ step: 0 }, { step: NaN }, { step: 0.5 }, { start: 0.5 }, { start: -Infinity }]) {
      expect(() => arange(3, options)).toThrow(refused)
    }
    expect(() => arange(129, { start: 126, dtype: 'i8' })).toThrow(refused)
  })

  test('a copy does not see later changes', async () => {
    const x = tensor([1, 2])
    const y = copy(x)
    accumulate(x, x.detach())
    expect([await values(x), await values(y)]).toEqual([[2, 4], [1, 2]])
  })

  test('requiresGrad makes a leaf', () => {
    expect([zeros([1]).requiresGrad, zeros([1], { requiresGrad: true }).requiresGrad]).toEqual([false, true])
  })
})
