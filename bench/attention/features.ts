// Attention by features, fused and composed of single operators, beside exact attention: times over lengths, and from which length
// on it is faster than exact.
import { directionsLike, favorKernel, randomDirections } from '../../lib/attention/favor'
import { softmaxKernel, type AttentionKernel } from '../../lib/attention/kernels'
import { backward } from '../../lib/autograd/backward'
import { noGrad } from '../../lib/autograd/tape'
import type { DType } from '../../lib/native/dtype'
import { randn } from '../../lib/ops/random'
import { linearKernel } from '../../lib/techniques/linear_attention'
import type { Device } from '../../lib/tensor/device'
import { keep } from '../../lib/tensor/scope'
import type { Tensor } from '../../lib/tensor/tensor'
import { composedFavor, composedLinear } from '../../test/support/composed_features'
import { deviceSeconds } from '../gpu/timing'
import type { Row } from './compare'

interface Sizes {
  lengths: readonly number[]
  heads: number
  width: number
  /** Of FAVOR+. */
  features: number
  repeats: number
}

interface Seconds {
  forward: number
  both: number
}

export function featureSizes(device: Device, quick: boolean): Sizes {
  if (quick) return { lengths: [64, 128], heads: 2, width: 16, features: 32, repeats: 1 }
  return { lengths: [512, 2048, 8192], heads: device.name === 'cpu' ? 2 : 12, width: 64, features: 256, repeats: device.name === 'cpu' ? 3 : 5 }
}

/** Where the line through two points, of logarithms, meets that of exact attention; null: not within a factor of 16 of them. */
function crossing(points: readonly { length: number; ratio: number }[]): number | null {
  for (let i = 1; i < points.length; ++i) {
    const [a, b] = [points[i - 1], points[i]]
    const last = i === points.length - 1
    if (b.ratio < 1 && !last) continue
    const slope = Math.log(b.ratio / a.ratio) / Math.log(b.length / a.length)
    const at = a.length * (1 / a.ratio) ** (1 / slope)
    return slope > 0 && at > points[0].length / 16 && at < 16 * b.length ? Math.round(at) : null
  }
  return null
}

/** Times of causal attention over one sample, and the length from which on each way beats exact attention. */
export async function featureTables(device: Device, dtype: DType, { lengths, heads, width, features, repeats }: Sizes, each: (row: Row) => void) {
  const drawn = randomDirections(features, width, { seed: 1, offset: 0 })
  // Made once: a technique makes them once a draw.
  const w = keep(directionsLike(randn([1, 1, 1, width], { device, dtype }), drawn, features))
  const ways: readonly [name: string, fused: AttentionKernel, composed: AttentionKernel][] = [
    [`favor, ${features} features`, favorKernel(() => w), composedFavor(() => w)],
    ['linear', linearKernel, composedLinear],
  ]
  const ratios = new Map<string, { length: number; forward: number; both: number }[]>()
  for (const length of lengths) {
    const [q, k, v, seed] = [0, 1, 2, 3].map(() => keep(randn([1, length, heads, width], { device, dtype })))
    for (const x of [q, k, v]) x.requiresGrad = true
    const time = async (kernel: AttentionKernel): Promise<Seconds> => {
      const run = (): Tensor => kernel(q, k, v, { heads, causal: true })
      const timing = { repeats, least: device.name === 'cpu' }
      const forward = await deviceSeconds(device, () => void noGrad(run), timing)
      const both = await deviceSeconds(
        device,
        () => {
          for (const x of [q, k, v]) {
            x.grad?.dispose()
            x.grad = null
          }
          backward(run(), seed)
        },
        timing,
      )
      return { forward, both }
    }
    const exact = await time(softmaxKernel)
    for (const [name, fused, composed] of ways) {
      const [own, single] = [await time(fused), await time(composed)]
      each({
        dtype, length, attention: name,
        forward_ms: 1e3 * own.forward, composed_ms: 1e3 * single.forward, exact_ms: 1e3 * exact.forward, times_faster: single.forward / own.forward,
        both_ms: 1e3 * own.both, composed_both_ms: 1e3 * single.both, exact_both_ms: 1e3 * exact.both, both_times_faster: single.both / own.both,
      })
      ratios.set(name, [...(ratios.get(name) ?? []), { length, forward: exact.forward / own.forward, both: exact.both / own.both }])
    }
    for (const x of [q, k, v, seed]) {
      x.grad?.dispose()
      x.dispose()
    }
  }
  w.dispose()
  return [...ratios].map(([attention, points]): Row => ({
    dtype, attention,
    forward_faster_from: crossing(points.map(({ length, forward }) => ({ length, ratio: forward }))),
    both_faster_from: crossing(points.map(({ length, both }) => ({ length, ratio: both }))),
  }))
}
