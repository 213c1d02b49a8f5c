// y = x W^T with W in blocks, as CSR or 2 of 4: the dense product of the same matrix; places outside of it are refused.
import { sparseLinear } from '../../lib/ops/sparse_linear'
import { ones, zeros } from '../../lib/ops/creation'
import { tensor } from '../../lib/tensor/tensor'
import { host, jestOnly, opCase, type HostTensor, type InputSpec } from '../support/op_case'

interface Layout {
  out: number
  rows: 1 | 2 | 4
  columns: number
}

/** W [out, in] of the inputs of a case. */
function dense([x, values, places, offsets]: HostTensor[], { out, rows, columns }: Layout): Float64Array {
  const inner = x.shape[x.shape.length - 1]
  const w = new Float64Array(out * inner)
  if (offsets) {
    for (let r = 0; r < out / rows; ++r) {
      for (let b = offsets.data[r]; b < offsets.data[r + 1]; ++b) {
        for (let c = 0; c < columns; ++c) {
          for (let k = 0; k < rows; ++k) w[(r * rows + k) * inner + places.data[b] * columns + c] = values.data[(b * columns + c) * rows + k]
        }
      }
    }
  } else {
    for (let g = 0; g < places.data.length; ++g) {
      const base = Math.floor(g / (inner / 4)) * inner + (g % (inner / 4)) * 4
      w[base + (places.data[g] & 3)] += values.data[2 * g]
      w[base + ((places.data[g] >> 2) & 3)] += values.data[2 * g + 1]
    }
  }
  return w
}

/** Blocks at every third place or so; some block rows are empty. */
function blocks(tokens: number[], inner: number, { out, rows, columns }: Layout, bias = false) {
  const places: number[] = []
  const offsets = [0]
  for (let r = 0; r < out / rows; ++r) {
    for (let c = (r * 2) % 3; r % 5 !== 4 && c < inner / columns; c += 1 + ((r + c) % 4)) places.push(c)
    offsets.push(places.length)
  }
  const inputs: InputSpec[] = [
    [...tokens, inner],
    { shape: [places.length * rows * columns], dtype: 'f32', grad: false },
    { shape: [places.length], dtype: 'i32', values: places },
    { shape: [offsets.length], dtype: 'i32', values: offsets },
    bias ? { shape: [out], dtype: 'f32', grad: false } : null,
  ]
  return { inputs, attrs: { out, rows, columns } }
}

function twoOfFour(tokens: number[], inner: number, out: number) {
  const pairs = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]].map(([a, b]) => a + 4 * b)
  const places = Array.from({ length: (out * inner) / 4 }, (_, i) => pairs[(i * 7) % 6])
  const inputs: InputSpec[] = [
    [...tokens, inner],
    { shape: [(out * inner) / 2], dtype: 'f32', grad: false },
    { shape: [places.length], dtype: 'u8', values: places },
    null,
    null,
  ]
  return { inputs, attrs: { out, rows: 1, columns: 1 } as Layout }
}

opCase<Layout>({
  name: 'sparse linear',
  ops: ['sparse_linear'],
  run: ([x, values, places, offsets, bias], layout) => sparseLinear(x, { values, places, offsets, ...layout }, bias),
  reference: (inputs, layout, r) => {
    const [x, , , , bias] = inputs
    const inner = x.shape[x.shape.length - 1]
    const w = dense(inputs, layout)
    return host([...x.shape.slice(0, -1), layout.out], (p) => {
      const [t, o] = [Math.floor(p / layout.out), p % layout.out]
      let sum = bias ? bias.data[o] : 0
      for (let c = 0; c < inner; ++c) sum = r(sum + r(x.data[t * inner + c] * w[o * inner + c]))
      return sum
    })
  },
  samples: [
    blocks([5], 33, { out: 7, rows: 1, columns: 1 }),
    blocks([2, 70], 40, { out: 36, rows: 1, columns: 1 }, true),
    blocks([64], 48, { out: 24, rows: 4, columns: 1 }, true),
    blocks([130], 48, { out: 10, rows: 2, columns: 8 }),
    blocks([17], 32, { out: 64, rows: 4, columns: 4 }),
    blocks([0], 8, { out: 4, rows: 1, columns: 1 }),
    twoOfFour([19], 36, 5),
    twoOfFour([3, 64], 8, 40),
  ],
  dtypes: ['f32', 'f16', 'bf16'],
  errorScale: 'tensor',
  noGradient: 'for trained models; packed layers unfold the matrix backward',
  bench: [
    { ...blocks([1024], 512, { out: 512, rows: 1, columns: 1 }), label: '1024 x 512 by CSR 512', dtypes: ['f32'] },
    { ...twoOfFour([1024], 512, 512), label: '1024 x 512 by 2:4 512', dtypes: ['f32'] },
  ],
  errors: [
    {
      what: 'blocks that do not tile',
      call: () => sparseLinear(zeros([2, 6]), { values: zeros([8]), places: tensor(new Int32Array(1), [1]), offsets: tensor(new Int32Array(2), [2]), out: 4, rows: 4, columns: 4 }),
      code: 'ERR_SHAPE', text: ['sparse_linear', '4 x 4', '[4, 6]'],
    },
  ],
})

jestOnly(() => {
  test('places outside of the matrix are refused, naming it', async () => {
    const indices = (...values: number[]) => tensor(Int32Array.from(values), [values.length])
    const call = (places: number[], offsets: number[]) =>
      sparseLinear(ones([1, 3]), { values: ones([places.length]), places: indices(...places), offsets: indices(...offsets), out: 2, rows: 1, columns: 1 })
    expect(Array.from(await call([0, 2], [0, 1, 2]).toFloat32())).toEqual([1, 1])
    const broken = call([0, 3], [0, 1, 2])
    try {
      // A kernel on a GPU knows the side that was left, not the shape.
      await expect(broken.toFloat32()).rejects.toMatchObject({ code: 'ERR_KERNEL', message: expect.stringMatching(/\[2, 3\]|outside of the matrix, which has 3/) })
    } finally {
      broken.device.clearError()
    }
  })
})
