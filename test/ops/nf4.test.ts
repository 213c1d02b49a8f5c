// 4-bit codes of a code book, scaled by block: sizes beside whole packs, blocks and bytes.
import { nf4Codes } from '../../lib/nn/nf4'
import { run1, tensor, type Tensor } from '../../lib/tensor/tensor'
import type { DType } from '../../lib/native/dtype'
import { host, integers, opCase, uniform } from '../support/op_case'

interface Attrs {
  shape: number[]
  block: number
}
const book = nf4Codes
const formats: readonly DType[] = ['f32', 'f16', 'bf16', 'f64']
const inputsFor = (size: number, block: number) => {
  const blocks = Math.ceil(size / block)
  return [{ shape: [(blocks * block) / 2], values: integers(0, 256), dtype: 'u8' as const }, { shape: [blocks], values: uniform(0.5, 2), dtype: 'f32' as const, grad: false }]
}
const sample = (shape: number[], block: number) => ({ inputs: inputsFor(shape.reduce((a, b) => a * b, 1), block), attrs: { shape, block } })

for (const dtype of formats) {
  opCase<Attrs>({
    name: `dequantize_nibbles to ${dtype}`,
    ops: ['dequantize_nibbles'],
    run: ([codes, scales]: Tensor[], { shape, block }) => run1('dequantize_nibbles', [codes, scales], { book, block, shape, dtype }),
    reference: ([codes, scales], { shape, block }, r) =>
      host(shape, (i) => {
        const byte = codes.data[i >> 1]
        return r(Math.fround(Math.fround(book[i % 2 ? byte & 15 : byte >> 4]) * scales.data[Math.floor(i / block)]))
      }),
    samples: [sample([4, 64], 64), sample([0, 3], 64), sample([7, 37], 64), sample([11, 5], 6), sample([33], 2)],
    dtypes: ['f32'],
    outDTypes: dtype,
    noGradient: 'codes have none',
    errors: [
      {
        what: 'too few codes',
        call: () => run1('dequantize_nibbles', [tensor(new Uint8Array(4)), tensor([1])], { book, block: 64, shape: [3], dtype }),
        code: 'ERR_SHAPE',
        text: ['3 numbers in blocks of 64 take 32 bytes of codes and 1 scales'],
      },
    ],
    bench: [sample([1024, 1024], 64)],
  })
}
