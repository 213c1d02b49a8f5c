// Multi-kernel attention: any segmentation of one kernel is that kernel, mixtures have the gradients of their parts, and on a
// trained model the frontier is foretold by single units.
import { DrawnDirections } from '../../lib/attention/favor'
import { multiKernel, choose, chooseExactly, formatAssignment, frontier, parseAssignment, wholeHead, type Choice, type FrontierPoint, type LayerAssignment } from '../../lib/attention/multi_kernel'
import { blockSparseKernel, csrKernel, softmaxKernel, windowKernel, type AttentionKernel } from '../../lib/attention/kernels'
import { localCausal } from '../../lib/attention/patterns'
import { backward } from '../../lib/autograd/backward'
import { randn } from '../../lib/ops/random'
import { assignKernels, assignmentOf, measureUnits, multiKernelTechnique, namedKernels, unitsOf } from '../../lib/techniques/multi_kernel'
import { getDevice } from '../../lib/tensor/device'
import { Generator, hostRandom } from '../../lib/tensor/random'
import { keep, scope } from '../../lib/tensor/scope'
import { setRequiresGrad, type Tensor } from '../../lib/tensor/tensor'
import type { Technique } from '../../lib/techniques/technique'
import { resumedRun, shortRun, withTechnique } from '../support/depth'
import { testDevices } from '../support/devices'
import { digest } from '../support/digest'
import { heldOutLoss, Markov, markovModel, markovTrainer, train } from '../support/markov'

const kernels = { softmax: softmaxKernel, near: windowKernel(4), blocks: blockSparseKernel(localCausal(9), 16) }
const options = { heads: 4, kvHeads: 2, causal: true }

/** Result and gradients of a kernel on fixed inputs. */
async function results(kernel: (q: Tensor, k: Tensor, v: Tensor) => Tensor): Promise<Float64Array[]> {
  const generator = new Generator(5)
  const leaves = [4, 2, 2].map((heads) => setRequiresGrad(randn([2, 21, heads, 6], { dtype: 'f64', generator })))
  const weights = randn([2, 21, 4, 6], { dtype: 'f64', generator })
  const out = scope(() => {
    const y = kernel(leaves[0], leaves[1], leaves[2])
    backward(y, weights)
    return y.detach()
  })
  return Promise.all([out, ...leaves.map((leaf) => leaf.grad!)].map((x) => x.toFloat64()))
}

function close(a: Float64Array[], b: Float64Array[], within: number): void {
  for (const [i, x] of a.entries()) expect(x.reduce((most, value, at) => Math.max(most, Math.abs(value - b[i][at])), 0)).toBeLessThan(within)
}

test('all softmax, in any stretches, is softmax attention', async () => {
  const whole = await results((q, k, v) => softmaxKernel(q, k, v, options))
  const cut: LayerAssignment = [
    [{ from: 0, to: 5, kernel: 'softmax' }, { from: 5, to: 20, kernel: 'softmax' }, { from: 20, to: Infinity, kernel: 'softmax' }],
    wholeHead('softmax'),
  ]
  close(await results((q, k, v) => multiKernel(cut, kernels)(q, k, v, options)), whole, 1e-12)
})

test('a mixture has results and gradients of softmax attention with each unit masked by its own kernel', async () => {
  const mixed: LayerAssignment = [[{ from: 0, to: 10, kernel: 'near' }, { from: 10, to: Infinity, kernel: 'softmax' }], wholeHead('blocks')]
  const seen = await results((q, k, v) => multiKernel(mixed, kernels)(q, k, v, options))
  const sees = (i: number, j: number, head: number) => j <= i && (head < 2 ? i >= 10 || i - j < 4 : i - j < 9)
  const dense = blockSparseKernel({ heads: 4, keyBlocks: () => [0, 1], sees }, 16)
  close(seen, await results((q, k, v) => dense(q, k, v, options)), 1e-8)
})

test('bad assignments are refused', () => {
  expect(() => parseAssignment('softmax+window@x')).toThrow("'window@x' of 'window@x' is no stretch")
  expect(() => multiKernelTechnique.create({ assignment: 'softmax/hash' })).toThrow('hash is not a kernel')
  expect(() => withTechnique(multiKernelTechnique.create({ assignment: 'softmax+softmax' }), 2)).toThrow('an assignment for 1 layers, but there are 2')
  expect(() => multiKernel([[{ from: 0, to: 4, kernel: 'softmax' }]], kernels)).toThrow('end at 4')
  expect(() => multiKernel([[{ from: 1, to: Infinity, kernel: 'softmax' }]], kernels)).toThrow('do not follow')
  expect(() => multiKernel([wholeHead('hash')], kernels)).toThrow('hash is not a kernel')
})

test('the frontier of small cases is that of trying everything', () => {
  const random = new Generator(3)
  const units: Choice[][] = Array.from({ length: 4 }, (_, u) =>
    ['a', 'b', 'c'].map((kernel, i) => ({ kernel, cost: 3 - i + Math.sin(u + random.next().offset), change: i * (1 + Math.cos(3 * u + i)) })),
  )
  const points = frontier(units)
  const all = units.reduce<{ cost: number; change: number }[]>(
    (sums, choices) => sums.flatMap((sum) => choices.map(({ cost, change }) => ({ cost: sum.cost + cost, change: sum.change + change }))),
    [{ cost: 0, change: 0 }],
  )
  for (const [i, { cost, change }] of points.entries()) {
    expect(all.filter((other) => other.cost < cost - 1e-9 && other.change < change - 1e-9)).toEqual([])
    if (i) expect(cost < points[i - 1].cost && change >= points[i - 1].change).toBe(true)
  }
  expect(choose(points, points[1].change).cost).toBe(points[1].cost)
  expect(() => choose(points, points[0].change - 1)).toThrow(/no assignment/)
})

test('the exact chooser finds the cheapest of all assignments, below the convex frontier where there is one', () => {
  let cheaper = 0
  for (let seed = 1; seed <= 20; ++seed) {
    const { uniform } = hostRandom({ seed, offset: 0 })
    const units: Choice[][] = Array.from({ length: 6 }, () => ['a', 'b', 'c'].map((kernel, i) => ({ kernel, cost: 3 - i + uniform(), change: i ? i * uniform() - 0.1 : 0 })))
    const all = units.reduce<FrontierPoint[]>(
      (sums, choices) => sums.flatMap((sum) => choices.map((c) => ({ kernels: [...sum.kernels, c.kernel], cost: sum.cost + c.cost, change: sum.change + c.change }))),
      [{ kernels: [], cost: 0, change: 0 }],
    )
    const points = frontier(units)
    for (const limit of [0.2, 0.7, 1.5]) {
      const best = all.filter(({ change }) => change <= limit).reduce((a, b) => (b.cost < a.cost ? b : a))
      const found = chooseExactly(units, limit)
      expect(found.cost).toBeCloseTo(best.cost, 10)
      expect(found.kernels).toEqual(best.kernels)
      expect(found.change).toBeLessThanOrEqual(limit + 1e-9)
      const convex = choose(points, limit).cost
      expect(found.cost).toBeLessThanOrEqual(convex + 1e-9)
      cheaper += Number(found.cost < convex - 1e-9)
    }
  }
  expect(cheaper).toBeGreaterThan(10)
  expect(() => chooseExactly([[{ kernel: 'a', cost: 1, change: 0.5 }]], 0.4)).toThrow(/no assignment/)
})

/** Spearman's correlation. */
function rankCorrelation(a: readonly number[], b: readonly number[]): number {
  const ranks = (x: readonly number[]) => x.map((value) => x.filter((other) => other < value).length + (x.filter((other) => other === value).length - 1) / 2)
  const [p, q] = [ranks(a), ranks(b)]
  const mean = (x: readonly number[]) => x.reduce((sum, value) => sum + value, 0) / x.length
  const [mp, mq] = [mean(p), mean(q)]
  const sum = (f: (i: number) => number) => p.reduce((total, _, i) => total + f(i), 0)
  return sum((i) => (p[i] - mp) * (q[i] - mq)) / Math.sqrt(sum((i) => (p[i] - mp) ** 2) * sum((i) => (q[i] - mq) ** 2))
}

test('frontier of a trained model: monotone, ends at the single kernels, foretold and measured losses agree in order', async () => {
  const model = markovModel({ layers: 2 })
  await train(markovTrainer(model, { steps: 150, lr: 2e-3 }))
  const device = getDevice()
  const source = new Markov()
  const evaluate = async () => {
    const before = (await device.synchronize()).flops
    const loss = await heldOutLoss(model, source, 2)
    return { loss, cost: (await device.synchronize()).flops - before }
  }
  const choices = { softmax: softmaxKernel, eight: windowKernel(8), one: windowKernel(1) }
  const kernelsOf = () => choices
  const units = unitsOf(model as never)
  const costs = new Map<string, Promise<number>>()
  const costOf = async (kernel: AttentionKernel) => {
    const before = (await device.synchronize()).flops
    scope(() => void kernel(...([1, 1, 1].map(() => randn([4, 32, 1, 16], { device })) as [Tensor, Tensor, Tensor]), { heads: 1, causal: true }))
    return (await device.synchronize()).flops - before
  }
  const measures = {
    loss: async () => (await evaluate()).loss,
    cost: (_: unknown, kernel: AttentionKernel, name: string) => {
      if (!costs.has(name)) costs.set(name, costOf(kernel))
      return costs.get(name)!
    },
  }
  const points = frontier(await measureUnits(model as never, units, kernelsOf, 'softmax', measures))
  expect(points.length).toBeGreaterThanOrEqual(5)
  const measure = async (names: readonly string[]) => {
    assignKernels(model as never, assignmentOf(units, names), kernelsOf)
    return evaluate()
  }
  const singles = new Map<string, { loss: number; cost: number }>()
  for (const name of Object.keys(choices)) singles.set(name, await measure(Array<string>(8).fill(name)))
  const measured: { loss: number; cost: number }[] = []
  for (const { kernels: names } of points) measured.push(await measure(names))
  for (let i = 1; i < points.length; ++i) {
    expect(measured[i].cost).toBeLessThan(measured[i - 1].cost)
    expect(points[i].change).toBeGreaterThanOrEqual(points[i - 1].change)
  }
  expect(measured[points.length - 1].cost).toBe(singles.get('one')!.cost)
  expect(measured[0].loss).toBeLessThanOrEqual(singles.get('softmax')!.loss)
  expect(rankCorrelation(points.map(({ change }) => change), measured.map(({ loss }) => loss))).toBeGreaterThanOrEqual(0.8)
  // At the cost of the middle kernel the frontier is at least as good.
  const middle = singles.get('eight')!
  const best = Math.min(...measured.filter(({ cost }) => cost <= middle.cost).map(({ loss }) => loss))
  expect(best).toBeLessThanOrEqual(middle.loss)
  model.dispose()
})

test('assignments as text', () => {
  const layers: LayerAssignment[] = [[[{ from: 0, to: 64, kernel: 'window32' }, { from: 64, to: Infinity, kernel: 'softmax' }], wholeHead('favor')], [wholeHead('int8'), wholeHead('linear')]]
  const text = 'window32@64-softmax+favor/int8+linear'
  expect([formatAssignment(layers), parseAssignment(text)]).toEqual([text, layers])
})

test('output errors of units are those of their outputs', async () => {
  const model = markovModel({ layers: 2, width: 32, heads: 4 })
  const directions = new DrawnDirections(0)
  const kernelsOf = (layer: number) => namedKernels(['softmax', 'window2', 'favor8'], layer, directions, { window: 1, features: 1 })
  const units = unitsOf(model as never, [8, Infinity])
  const loss = () => heldOutLoss(model, new Markov(), 2)
  const measured = await measureUnits(model as never, units, kernelsOf, 'softmax', { loss, cost: () => Promise.resolve(0) })
  // The same from the outputs themselves.
  const names = ['softmax', 'window2', 'favor8']
  const outputs: Promise<Float64Array>[][] = []
  for (const [layer, { attention }] of model.blocks.entries()) {
    attention.kernel = (...call) => {
      const all = names.map((name) => kernelsOf(layer)[name](...call))
      outputs.push(all.map((x) => x.toFloat64()))
      return all[0]
    }
  }
  await loss()
  const values = await Promise.all(outputs.map((each) => Promise.all(each)))
  for (const [u, { layer, head, from, to }] of units.entries()) {
    // Rows of [batch, 32 tokens, 4 heads, 8].
    const chosen = (i: number) => Math.floor(i / 8) % 4 === head && Math.floor(i / 32) % 32 >= from && Math.floor(i / 32) % 32 < to
    const norm = (of: (exact: Float64Array, i: number, all: Float64Array[]) => number) =>
      values.reduce((total, all, call) => (call % 2 === layer ? all[0].reduce((t, _, i) => (chosen(i) ? t + of(all[0], i, all) ** 2 : t), total) : total), 0)
    for (const [k, name] of names.entries()) {
      const expected = Math.sqrt(norm((exact, i, all) => all[k][i] - exact[i]) / norm((exact, i) => exact[i]))
      expect(measured[u].find(({ kernel }) => kernel === name)!.error).toBeCloseTo(expected, 4)
      expect(expected > 0.01).toBe(k > 0)
    }
  }
  model.dispose()
})

test('as a technique: FAVOR+ draws its features anew and resumes with them; an assignment is what assignKernels() makes of it', async () => {
  const make = () => multiKernelTechnique.create({ kernel: 'favor', features: 8, redraw: 2 })
  const losses = await shortRun(make(), 2)
  expect(await resumedRun(make, 2, 6, 3)).toEqual(losses)
  expect(await shortRun(multiKernelTechnique.create({ kernel: 'favor', features: 8, redraw: 0 }), 2)).not.toEqual(losses)
  const text = 'window3@4-softmax+favor8+softmax+softmax/int8+softmax+softmax+favor8'
  const given = await shortRun(multiKernelTechnique.create({ assignment: text, redraw: 0 }), 2)
  const technique: Technique = {
    name: 'by hand',
    adapt: (model) => {
      const directions = new DrawnDirections(0)
      assignKernels(model, parseAssignment(text), (layer) => namedKernels(['window3', 'softmax', 'favor8', 'int8'], layer, directions, { window: 1, features: 1 }))
    },
  }
  expect(await shortRun(technique, 2)).toEqual(given)
})

test.each(testDevices().map((device) => [device.name, device] as const))('%s: kernels beside each other give the numbers of one after another', async (name, device) => {
  const text = 'window3@9-softmax+favor8+linear+int8/softmax+window2@5-favor8+softmax+softmax'
  const run = async (serial: boolean) => {
    const model = markovModel({ layers: 2, width: 32, heads: 4 }, undefined, 1, device.name)
    multiKernelTechnique.create({ assignment: text }).adapt!(model as never)
    device.timeOperators(serial)
    const losses = await train(markovTrainer(model, { steps: 3, device }))
    device.timeOperators(false)
    const weights = await Promise.all(model.parameters().map(({ tensor }) => tensor.toFloat64()))
    model.dispose()
    return [losses, ...weights]
  }
  const before = device.stats().branches
  const serial = await run(true)
  expect(device.stats().branches).toBe(before)
  expect(await run(false)).toEqual(serial)
  // Forward and backward of two layers with five and four kernels, three steps.
  if (name.startsWith('cuda')) expect(device.stats().branches - before).toBeGreaterThanOrEqual(3 * 2 * 9)
  else expect(device.stats().branches).toBe(before)
})

test.each(testDevices().map((device) => [device.name, device] as const))('%s: heads by one list of pairs beside each other, in steps that repeat', async (name, device) => {
  // Heads 0 and 2 have the same pattern, on the two branches round head 1.
  const mixed = multiKernel(['pairs', 'near', 'pairs'].map(wholeHead), { pairs: csrKernel(localCausal(6), 16), near: windowKernel(4) })
  const leaves = [1, 2, 3].map((from) => setRequiresGrad(keep(randn([2, 24, 3, 8], { device, generator: new Generator(from) }))))
  const step = () => scope(() => {
    const y = mixed(leaves[0], leaves[1], leaves[2], { heads: 3, causal: true })
    backward(y, leaves[0].detach())
    return keep(y.detach())
  })
  const run = async () => {
    const y = device.repeating(step)
    const all = [y, ...leaves.map((leaf) => leaf.grad!)]
    const values = await Promise.all(all.map((x) => x.toFloat64()))
    for (const x of all) x.dispose()
    for (const leaf of leaves) leaf.grad = null
    return digest(values)
  }
  device.timeOperators(true)
  const serial = await run()
  device.timeOperators(false)
  const before = await device.synchronize()
  for (let i = 0; i < 4; ++i) expect(await run()).toBe(serial)
  const after = await device.synchronize()
  if (name.startsWith('cuda')) {
    expect(after.branches - before.branches).toBeGreaterThanOrEqual(4 * 2 * 3)
    expect(after.graphReplays - before.graphReplays).toBeGreaterThanOrEqual(2)
  }
  for (const leaf of leaves) leaf.dispose()
})

test('as a technique: share=0 is the run without it, otherwise it trains and resumes exactly', async () => {
  expect(await shortRun(multiKernelTechnique.create({ share: 0 }), 2)).toEqual(await shortRun(null, 2))
  const make = () => multiKernelTechnique.create({ window: 3 })
  const losses = await shortRun(make(), 2)
  expect(losses[5]).toBeLessThan(losses[0])
  expect(await resumedRun(make, 2, 6, 3)).toEqual(losses)
})
