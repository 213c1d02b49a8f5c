// Evidence cards: the statistics, equal budgets, and that everything generated is what the records say.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { defineCard } from '../../bench/evidence/card'
import { undominated } from '../../bench/evidence/frontier'
import { measure } from '../../bench/evidence/measure'
import { flagsOf, readRecords, recordOf } from '../../bench/evidence/record'
import { costVerdict, interval, lossVerdict } from '../../bench/evidence/statistics'
import { generatedFiles } from '../../bench/evidence/write'
import { verdictOf } from '../../lib/catalog/verdict'
import { listEntries } from '../../lib/cli/entries'

test('the 95 % t-interval of 1 to 5 is 3 +- 1.963', () => {
  const { mean, low, high } = interval([1, 2, 3, 4, 5])
  expect(mean).toBe(3)
  expect(high - mean).toBeCloseTo(1.9633, 3)
  expect(mean - low).toBeCloseTo(1.9633, 3)
  expect(() => interval([1])).toThrow('two numbers')
})

test('verdicts', () => {
  const at = (low: number, high: number) => ({ mean: (low + high) / 2, low, high })
  expect(lossVerdict(at(-0.02, -0.001), 0.01)).toBe('better')
  expect(lossVerdict(at(0.001, 0.02), 0.01)).toBe('worse')
  expect(lossVerdict(at(-0.005, 0.004), 0.01)).toBe('equal')
  expect(lossVerdict(at(-0.05, 0.004), 0.01)).toBe('not shown')
  expect(costVerdict(at(-0.005, 0.004), 0.01, at(0.7, 0.7))).toBe('better')
  expect(costVerdict(at(-0.005, 0.004), 0.01, at(1.1, 1.2))).toBe('worse')
  expect(costVerdict(at(0.02, 0.04), 0.01, at(0.7, 0.7))).toBe('worse')
  expect(costVerdict(at(-0.005, 0.04), 0.01, at(0.7, 0.7))).toBe('not shown')
  expect(costVerdict(at(-0.005, 0.004), 0.01, at(0.99, 1.01))).toBe('equal')
})

test('the frontier is what nothing beats in both FLOPs and loss', () => {
  const all = [{ flops: 1, bits: 3 }, { flops: 2, bits: 2 }, { flops: 2, bits: 2.5 }, { flops: 3, bits: 2.2 }, { flops: 4, bits: 1 }]
  expect(undominated(all).map(({ flops, bits }) => [flops, bits])).toEqual([[1, 3], [2, 2], [4, 1]])
})

test('options become the flags of the command line', () => {
  const options = { minLr: 0, tiedHead: false, bias: true, technique: ['a', 'b:c=1'], json: true, seed: undefined }
  expect(flagsOf(options)).toBe('--min-lr 0 --no-tied-head --bias --technique a --technique b:c=1')
})

test('a card measured: equal FLOPs by the number of steps, the same seeds on both arms', async () => {
  const card = defineCard({
    title: 'Twice the batch',
    claim: 'none',
    budget: 'flops',
    options: { layers: 1, width: 8, heads: 1, context: 16, batch: 2, steps: 60, warmup: 0, evalTokens: 128 },
    baseline: { label: 'batch 2', options: {}, lr: 1e-2 },
    technique: { label: 'batch 4', options: { batch: 4 }, lr: 1e-2 },
    when: 'never',
  })
  const measured = await measure(card, [1, 2, 3], () => {})
  const record = recordOf('test', card, {}, measured)
  expect(record.baseline.steps).toBe(60)
  expect(Math.abs(record.technique.steps - 30)).toBeLessThanOrEqual(2)
  expect(Math.abs(record.ratio.flops - 1)).toBeLessThan(0.03)
  expect(record.technique.bitsPerByte.values).toHaveLength(3)
  for (const bits of [...record.baseline.bitsPerByte.values, ...record.technique.bitsPerByte.values]) {
    expect(bits).toBeGreaterThan(4)
    expect(bits).toBeLessThan(8)
  }
  expect(record.technique.peakBytes).toBeGreaterThan(record.baseline.peakBytes)
})

test('pages, index, frontier and verdicts are what the records say: `npm run evidence -- --index`', () => {
  for (const [file, text] of generatedFiles()) expect([file, readFileSync(file, 'utf8') === text]).toEqual([file, true])
})

test('every technique, optimiser and initialiser has a card', async () => {
  for (const kind of ['technique', 'optimizer', 'initializer'] as const) {
    for (const entry of await listEntries(kind)) expect([entry.name, verdictOf(entry)?.card]).toEqual([entry.name, expect.any(String)])
  }
})

test('every record has its card, and what cards are about is there', () => {
  const cards = new Set(readdirSync('bench/evidence/cards').map((file) => path.basename(file, '.ts')))
  const folders = { technique: 'techniques', optimizer: 'optim', initializer: 'init', model: 'models' }
  for (const { name, about, seeds } of readRecords()) {
    expect(cards).toContain(name)
    expect(seeds.length).toBeGreaterThanOrEqual(5)
    for (const entry of about) expect([entry.name, existsSync(path.join('lib', folders[entry.kind], `${entry.name}.ts`))]).toEqual([entry.name, true])
  }
})
