// Sums in place.
import { accumulate } from '../../lib/ops/accumulate'
import { dtypes } from '../../lib/native/dtype'
import { run1, tensor } from '../../lib/tensor/tensor'
import { host, integers, jestOnly, opCase } from '../support/op_case'

const floating = dtypes.slice(0, 4)
for (const kind of ['floating', 'whole'] as const) {
  opCase({
    name: `accumulate ${kind} numbers`,
    ops: ['accumulate'],
    run: ([target, x]) => {
      const out = run1('copy', [target], {})
      accumulate(out, x)
      return out
    },
    reference: ([target, x], _, r) => host(x.shape, (i) => r(target.data[i] + x.data[i])),
    samples: [[], [0, 3], [2, 33], [71]].map((shape) =>
      kind === 'floating' ? [shape, shape] : [1, 2].map(() => ({ shape, values: integers(0, 50) })),
    ),
    dtypes: kind === 'floating' ? floating : ['i8', 'u8', 'i32', 'i64'],
    noGradient: 'it changes its target',
    bench: kind === 'floating' ? [{ inputs: [[1024, 1024], [1024, 1024]] }] : [],
    errors: [
      {
        what: 'different shapes',
        call: () => accumulate(tensor([1, 2]), tensor([1])),
        code: 'ERR_SHAPE',
        text: ['accumulate', '[2]', '[1]'],
      },
      {
        what: 'different formats',
        call: () => accumulate(tensor([1]), tensor([1], null, { dtype: 'f64' })),
        code: 'ERR_DTYPE',
        text: ['accumulate', 'f32', 'f64'],
      },
    ],
  })
}

jestOnly(() => {
  test.each([['i8', 2 ** 7], ['i32', 2 ** 31]] as const)('%s wraps around', async (dtype, end) => {
    const target = tensor([end - 1, -end], [2], { dtype })
    accumulate(target, tensor([1, -1], [2], { dtype }))
    expect([...(await target.toFloat64())]).toEqual([-end, end - 1])
  })
})
