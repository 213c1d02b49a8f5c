// Masked tokens: shares, targets, padding, and that a batch depends on its index alone.
import { MaskedTokens } from '../../lib/data/masked_tokens'
import { EvaluationWindows, TokenWindows } from '../../lib/data/tokens'

const tokens = Uint8Array.from({ length: 5000 }, (_, i) => (i * 31) % 200)
const windows = new TokenWindows(tokens, { context: 64, batch: 32, seed: 1 })
const options = { maskId: 200, vocab: 200, seed: 3 }

test('15 % of places; 80 % masked, 10 % random, 10 % as they were', () => {
  const masked = new MaskedTokens(windows, options)
  const count = { chosen: 0, mask: 0, same: 0, all: 0 }
  for (let i = 0; i < 20; ++i) {
    const before = windows.batch(i)
    const { inputs, targets, tokens: counted, segments } = masked.batch(i)
    expect(segments).toBeUndefined()
    expect(counted).toBe(targets.filter((target) => target >= 0).length)
    for (const [k, target] of targets.entries()) {
      count.all++
      if (target < 0) expect(inputs[k]).toBe(before.inputs[k])
      else {
        expect(target).toBe(before.inputs[k])
        count.chosen++
        if (inputs[k] === 200) count.mask++
        else if (inputs[k] === target) count.same++
      }
    }
  }
  // Four standard deviations round the binomial means.
  expect(Math.abs(count.chosen / count.all - 0.15)).toBeLessThan(0.007)
  expect(Math.abs(count.mask / count.chosen - 0.8)).toBeLessThan(0.021)
  expect(Math.abs(count.same / count.chosen - 0.1 - 0.1 / 200)).toBeLessThan(0.016)
})

test('a batch depends on its index alone', () => {
  const again = new MaskedTokens(windows, options)
  again.batch(7)
  expect(again.batch(3)).toEqual(new MaskedTokens(windows, options).batch(3))
  expect(again.batch(3).targets).not.toEqual(again.batch(4).targets)
})

test('padding is never chosen and seen by nobody', () => {
  const evaluation = new EvaluationWindows(tokens.subarray(0, 81), { context: 64, batch: 2 })
  const masked = new MaskedTokens(evaluation, { ...options, probability: 1 })
  expect(masked.length).toBe(1)
  const { segments, targets, tokens: counted } = masked.batch(0)
  expect(counted).toBe(80)
  expect([...segments!]).toEqual([...targets].map((target) => (target < 0 ? -1 : 0)))
})

test('at least one place, and a sensible share', () => {
  const source = { batch: () => ({ inputs: Int32Array.of(4), targets: Int32Array.of(5), batch: 1, context: 1, tokens: 1 }) }
  expect(new MaskedTokens(source, { ...options, probability: 1e-9 }).batch(0).tokens).toBe(1)
  expect(() => new MaskedTokens(source, { ...options, probability: 0 })).toThrow(/probability is 0/)
})
