// `npm run bench -- sparse`: from which density on a matrix without its zeros multiplies faster than the dense one, by layout,
// width and number of tokens. Prints microseconds and, by interpolation, the density at which both take as long.
// Options: --widths 512,1024 --tokens 16,512 --device cpu
import { parseArgs } from 'node:util'
import { noGrad } from '../../lib/autograd/tape'
import { SparseWeight, toBlocks, toTwoOfFour, type SparseLayout, type SparseParts } from '../../lib/nn/sparse_weight'
import { linear } from '../../lib/ops/linear'
import { randn } from '../../lib/ops/random'
import { getDevice } from '../../lib/tensor/device'
import { Generator, hostRandom } from '../../lib/tensor/random'
import { tensor } from '../../lib/tensor/tensor'
import { deviceSeconds } from '../gpu/timing'

const { values } = parseArgs({
  options: { widths: { type: 'string', default: '512,1024' }, tokens: { type: 'string', default: '16,512' }, device: { type: 'string', default: 'cpu' } },
})
const numbers = (text: string) => text.split(',').map(Number)
const device = getDevice(values.device)
const densities = [0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05]

/** A matrix of which blocks of `rows` rows are kept with this probability. */
function pruned(width: number, density: number, rows: number): Float32Array {
  const random = hostRandom({ seed: 1, offset: rows })
  const w = new Float32Array(width * width)
  for (let block = 0; block < width / rows; ++block) {
    for (let c = 0; c < width; ++c) {
      if (random.uniform() >= density) continue
      for (let r = 0; r < rows; ++r) w[(block * rows + r) * width + c] = random.normal()
    }
  }
  return w
}

function halved(width: number): Float32Array {
  return pruned(width, 1, 1).map((value, i) => ((i + (i >> 4)) % 4 < 2 ? value : 0))
}

for (const width of numbers(values.widths)) {
  for (const tokens of numbers(values.tokens)) {
    const x = randn([tokens, width], { generator: new Generator(1), device: device.name })
    const dense = tensor(pruned(width, 1, 1), [width, width], { device })
    const time = (body: () => void) => deviceSeconds(device, () => noGrad(body), { repeats: 15 })
    const plain = await time(() => void linear(x, dense))
    console.log(`\n${tokens} tokens, ${width} x ${width}: dense ${(1e6 * plain).toFixed(0)} us (${((2e-9 * tokens * width * width) / plain).toFixed(0)} GFLOP/s)`)
    const measure = async (parts: SparseParts, layout: SparseLayout) => {
      const weight = new SparseWeight(parts, [width, width], layout, device)
      const seconds = await time(() => void weight.product(x))
      weight.dispose()
      return seconds
    }
    for (const [layout, rows] of [['csr', 1], ['rows2', 2], ['rows4', 4]] as const) {
      const times: number[] = []
      for (const density of densities) times.push(await measure(toBlocks(pruned(width, density, rows), [width, width], rows), layout))
      const first = times.findIndex((seconds) => seconds < plain)
      let crossover = first < 0 ? `below ${densities.at(-1)}` : `above ${densities[0]}`
      if (first > 0) {
        const [slow, fast] = [times[first - 1], times[first]]
        const share = (plain - fast) / (slow - fast)
        crossover = (densities[first] + share * (densities[first - 1] - densities[first])).toFixed(2)
      }
      console.log(`  ${layout.padEnd(6)} ${densities.map((d, i) => `${d}: ${(1e6 * times[i]).toFixed(0)} us`).join('  ')}  | crossover at density ${crossover}`)
    }
    const pairs = await measure(toTwoOfFour(halved(width), [width, width])!, '2:4')
    console.log(`  2:4    0.5: ${(1e6 * pairs).toFixed(0)} us  | ${(plain / pairs).toFixed(2)} times as fast as dense`)
  }
}
