// GPTQ by its published numbers: the error of outputs on correlated inputs beside plain rounding, which has the smaller error of
// weights; groups, order and dead inputs; a model on M2.
import { noGrad } from '../../lib/autograd/tape'
import { IntWeight } from '../../lib/nn/int_weight'
import { gptq, quantiseGptq, type GptqOptions } from '../../lib/techniques/gptq'
import { quantise } from '../../lib/techniques/quantise'
import { hostRandom } from '../../lib/tensor/random'
import { scope } from '../../lib/tensor/scope'
import { tensor } from '../../lib/tensor/tensor'
import { heldOutLoss, Markov, markovModel, markovTrainer, train } from '../support/markov'

const [columns, rows, tokens, rank] = [256, 128, 1024, 32]

/** Inputs of rank 32 with noise of 0.3, and a normal matrix. */
function problem() {
  const { normal } = hostRandom({ seed: 4, offset: 0 })
  const draw = (n: number) => Float64Array.from({ length: n }, () => normal())
  const [basis, w] = [draw(rank * columns), draw(rows * columns)]
  const x = new Float64Array(tokens * columns)
  for (let t = 0; t < tokens; ++t) {
    const at = draw(rank)
    for (let j = 0; j < columns; ++j) {
      let sum = 0
      for (let k = 0; k < rank; ++k) sum += at[k] * basis[k * columns + j]
      x[t * columns + j] = sum + 0.3 * normal()
    }
  }
  return { x, w }
}

function momentsOf(x: Float64Array): Float64Array {
  const sums = new Float64Array(columns * columns)
  for (let t = 0; t < tokens; ++t) {
    const row = x.subarray(t * columns, (t + 1) * columns)
    for (let i = 0; i < columns; ++i) for (let j = 0; j < columns; ++j) sums[i * columns + j] += row[i] * row[j]
  }
  return sums
}

/** Relative errors of outputs and of weights. */
function errors(x: Float64Array, w: Float64Array, found: Float64Array): { outputs: number; weights: number } {
  const sums = [0, 0, 0, 0]
  for (let i = 0; i < w.length; ++i) {
    sums[0] += (w[i] - found[i]) ** 2
    sums[1] += w[i] ** 2
  }
  for (let t = 0; t < tokens; t += 4) {
    for (let r = 0; r < rows; ++r) {
      let [difference, exact] = [0, 0]
      for (let j = 0; j < columns; ++j) {
        difference += x[t * columns + j] * (w[r * columns + j] - found[r * columns + j])
        exact += x[t * columns + j] * w[r * columns + j]
      }
      sums[2] += difference ** 2
      sums[3] += exact ** 2
    }
  }
  return { weights: Math.sqrt(sums[0] / sums[1]), outputs: Math.sqrt(sums[2] / sums[3]) }
}

const { x, w } = problem()
const inputs = { moments: momentsOf(x), count: tokens }

function unpacked(options: GptqOptions, given = inputs): Float64Array {
  const { codes, scales } = gptq(w, [rows, columns], given, options)
  const each = options.group ?? columns
  return Float64Array.from(codes, (code, i) => code * scales[Math.floor(i / each)])
}

/** With inputs that do not correlate it is plain rounding. */
const identity = Float64Array.from({ length: columns * columns }, (_, i) => (i % (columns + 1) === 0 ? 1 : 0))
const plain = (options: GptqOptions) => unpacked(options, { moments: identity, count: 2 })

test.each([[4, 0.125, 0.032], [3, 0.298, 0.077]])('%i bits: the error of outputs falls from %d to about %d, that of weights rises', (bits, rounded, corrected) => {
  const [before, after] = [errors(x, w, plain({ bits })), errors(x, w, unpacked({ bits }))]
  expect(Math.abs(before.outputs / rounded - 1)).toBeLessThan(0.05)
  expect(Math.abs(after.outputs / corrected - 1)).toBeLessThan(0.15)
  // Published at 4 bits: from 12.5 to 16.3 %.
  expect(Math.abs(after.weights / before.weights / (16.3 / 12.5) - 1)).toBeLessThan(0.05)
})

test('inputs that do not correlate: the codes of plain rounding', async () => {
  const { codes, scales } = gptq(w, [rows, columns], { moments: identity, count: 2 }, { bits: 4, group: 64 })
  const own = noGrad(() => new IntWeight(tensor(Float32Array.from(w), [rows, columns]), { bits: 4, group: 64 }).call('f32'))
  const expected = await own.toFloat64()
  codes.forEach((code, i) => expect(Math.abs(code * scales[Math.floor(i / 64)] - expected[i])).toBeLessThan(1e-6))
})

test('by group, and in the order of the inputs: no worse than plain rounding of the same grid; dead inputs get zeros', () => {
  for (const options of [{ bits: 4, group: 64 }, { bits: 4, activationOrder: true }, { bits: 4, group: 64, activationOrder: true }]) {
    expect(errors(x, w, unpacked(options)).outputs).toBeLessThan(0.4 * errors(x, w, plain(options)).outputs)
  }
  const moments = inputs.moments.map((value, i) => (i % columns === 7 || Math.floor(i / columns) === 7 ? 0 : value))
  const found = unpacked({ bits: 4 }, { moments, count: tokens })
  expect(found.filter((value, i) => i % columns === 7 && value !== 0)).toHaveLength(0)
  expect(() => gptq(w, [rows, columns], inputs, { bits: 4, group: 100 })).toThrow(/groups of 100 do not divide 256/)
})

test('M2: at 4 bits the loss rises less than by plain rounding', async () => {
  const model = markovModel({ layers: 2 })
  await train(markovTrainer(model, { steps: 300 }))
  const state = model.state()
  const source = new Markov()
  const batch = (index: number) => {
    const { inputs: ids, batch: count, context } = source.batch(3_000_000 + index)
    return tensor(ids, [count, context])
  }
  const start = await heldOutLoss(model)
  const loss = async (corrected: boolean) => {
    const small = markovModel({ layers: 2 })
    small.loadState(state)
    const calibrate = () => [0, 1, 2, 3].forEach((i) => scope(() => void small.call(batch(i))))
    if (corrected) await quantiseGptq(small, { bits: 4, calibrate })
    else quantise(small, { bits: 4 })
    return heldOutLoss(small)
  }
  expect((await loss(true)) - start).toBeLessThan(0.8 * ((await loss(false)) - start))
}, 120_000)
