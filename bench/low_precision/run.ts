// `npm run bench -- low-precision`: products of int8 codes against those of f32 and bf16, alone and as a layer that rounds its
// inputs and weights first, as int8_training does. Prints GFLOP/s of 2 m n k. Options: --sizes 512,1024 --device cpu
import { parseArgs } from 'node:util'
import { noGrad } from '../../lib/autograd/tape'
import { int8Linear } from '../../lib/nn/integer_linear'
import { cast } from '../../lib/ops/cast'
import { int8Matmul, quantizeRows } from '../../lib/ops/int8_matmul'
import { linear } from '../../lib/ops/linear'
import { randn } from '../../lib/ops/random'
import { getDevice } from '../../lib/tensor/device'
import { Generator } from '../../lib/tensor/random'
import { deviceSeconds } from '../gpu/timing'

const { values } = parseArgs({ options: { sizes: { type: 'string', default: '256,512,1024,2048' }, device: { type: 'string', default: 'cpu' } } })
const device = getDevice(values.device)
console.log('GFLOP/s of a product of n x n by n x n\n     n     f32    bf16    int8  (codes alone)  int8 layer f32  int8 layer bf16  int8 / bf16')
for (const n of values.sizes.split(',').map(Number)) {
  const [x, w] = [1, 2].map((seed) => randn([n, n], { generator: new Generator(seed), device: device.name }))
  const [x16, w16] = [x, w].map((t) => noGrad(() => cast(t, 'bf16')))
  const [a, b] = [x, w].map((t) => quantizeRows(t))
  const bodies = [
    () => linear(x, w), () => linear(x16, w16), () => int8Matmul(a, b, { outDType: 'bf16' }), () => int8Linear(x, w), () => int8Linear(x16, w16),
  ]
  const rates: number[] = []
  for (const body of bodies) rates.push((2e-9 * n ** 3) / (await deviceSeconds(device, () => noGrad(() => void body()), { repeats: 15 })))
  const [f32, bf16, int8, layer32, layer16] = rates.map((rate) => rate.toFixed(0))
  console.log(`${String(n).padStart(6)}${f32.padStart(8)}${bf16.padStart(8)}${int8.padStart(8)}${layer32.padStart(31)}${layer16.padStart(17)}${(rates[2] / rates[1]).toFixed(2).padStart(13)}`)
}
