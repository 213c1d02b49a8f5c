// The dynamic programme against all plans that there are, on chains of random bytes and FLOPs; and against sqrt(n) stretches.
import { chooseWithin, everyPlan, frontier, layersOfPlan, planCosts, planOf, sqrtPlan, type ChainCosts, type Piece, type Plan } from '../../lib/autograd/rematerialisation'
import { hostRandom } from '../../lib/tensor/random'

function randomChain(layers: number, offset: number): ChainCosts {
  const random = hostRandom({ seed: 5, offset })
  const draw = (from: number, to: number) => from + Math.floor(random.uniform() * (to - from + 1))
  return {
    stages: Array.from({ length: layers }, () => {
      const [output, held, flops] = [draw(1, 9), draw(0, 40), draw(1, 20)]
      const runPeak = output + draw(0, 15)
      return { output, runPeak, runFlops: flops, keepPeak: Math.max(runPeak, output + held) + draw(0, 5), keepFlops: flops, held, backPeak: draw(0, 30), growth: draw(-5, 12) }
    }),
    turn: { peak: draw(0, 30), growth: draw(0, 20) },
  }
}

/** Every plan of `layers` layers; `whole`: one stretch of all of them may be run again. */
function* plans(layers: number, whole: boolean): globalThis.Generator<Plan> {
  if (layers === 0) return yield []
  const firsts = function* (count: number): globalThis.Generator<Piece> {
    if (count === 1) yield 'keep'
    if (count < layers || whole) yield* plans(count, false)
  }
  for (let count = 1; count <= layers; ++count) {
    for (const first of firsts(count)) for (const rest of plans(layers - count, whole)) yield [first, ...rest]
  }
}

test('a plan covers its layers', () => {
  expect(layersOfPlan(sqrtPlan(36))).toBe(36)
  expect(sqrtPlan(36).map(layersOfPlan)).toEqual(Array(6).fill(6))
  expect(everyPlan(7, 3).map(layersOfPlan)).toEqual([3, 3, 1])
  for (let n = 1; n <= 40; ++n) expect(layersOfPlan(sqrtPlan(n))).toBe(n)
})

test.each([1, 2, 3, 4, 5, 6, 7, 8])('%i layers: the frontier is that of all plans', (layers) => {
  const chain = randomChain(layers, layers)
  const fewest = new Map<number, number>()
  let count = 0
  for (const plan of plans(layers, true)) {
    const { peak, flops } = planCosts(chain, plan)
    fewest.set(peak, Math.min(fewest.get(peak) ?? Infinity, flops))
    ++count
  }
  let least = Infinity
  const expected = [...fewest].sort(([a], [b]) => a - b).filter(([, flops]) => flops < least && ((least = flops), true))
  const found = frontier(chain)
  expect(found.map(({ peak, flops }) => [peak, flops])).toEqual(expected)
  for (const choice of found) expect(planCosts(chain, planOf(choice))).toEqual({ peak: choice.peak, flops: choice.flops })
  expect(count).toBe([0, 2, 6, 22, 90, 394, 1806, 8558, 41586][layers])
})

test('100 random chains: never worse than sqrt(n) stretches, nor than stretches of any length', () => {
  for (let i = 0; i < 100; ++i) {
    const layers = 2 + (i % 18)
    const chain = randomChain(layers, 100 + i)
    const choices = frontier(chain)
    for (const plan of [sqrtPlan(layers), everyPlan(layers, 1), everyPlan(layers, 3), Array<Piece>(layers).fill('keep')]) {
      const { peak, flops } = planCosts(chain, plan)
      expect(chooseWithin(choices, peak)!.flops).toBeLessThanOrEqual(flops)
    }
    expect(chooseWithin(choices, choices[0].peak - 1)).toBeNull()
  }
})
