import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { ByteTokenizer } from '../../lib/data/tokenizers/bytes'
import { EvaluationWindows, loadTextDataset, splitText, TokenWindows } from '../../lib/data/tokens'

const counting = (n: number) => Int32Array.from({ length: n }, (_, i) => i)

test('a batch is windows of the text, targets one later', () => {
  const { inputs, targets, tokens, batch } = new TokenWindows(counting(1000), { context: 7, batch: 5, seed: 1 }).batch(
    3,
  )
  expect([batch, tokens, inputs.length, targets.length]).toEqual([5, 35, 35, 35])
  for (let i = 0; i < 35; i++) {
    expect(targets[i]).toBe(inputs[i]! + 1)
    if (i % 7 > 0) expect(inputs[i]).toBe(inputs[i - 1]! + 1)
  }
})

test('an epoch starts once at every position, and the next one in another order', () => {
  const windows = new TokenWindows(counting(43), { context: 3, batch: 4, seed: 9 })
  expect(windows.starts).toBe(40)
  const starts = (epoch: number) =>
    Array.from({ length: 10 }, (_, i) => windows.batch(epoch * 10 + i).inputs)
      .map((inputs) => [0, 3, 6, 9].map((i) => inputs[i]!))
      .flat()
  const [first, second] = [starts(0), starts(1)]
  expect([...first].sort((a, b) => a - b)).toEqual([...counting(40)])
  expect([...second].sort((a, b) => a - b)).toEqual([...counting(40)])
  expect(second).not.toEqual(first)
})

test('any batch can be read at once, with the same result as in sequence', () => {
  const make = () => new TokenWindows(counting(500), { context: 8, batch: 3, seed: 5 })
  const straight = make()
  const batches = Array.from({ length: 400 }, (_, i) => straight.batch(i))
  for (const i of [399, 0, 163, 164, 165, 328]) expect(make().batch(i)).toEqual(batches[i])
  expect(make().batch(10 ** 12).inputs).toHaveLength(24)
  expect(new TokenWindows(counting(500), { context: 8, batch: 3, seed: 6 }).batch(0)).not.toEqual(batches[0])
})

test('evaluation reads every token once; the rest of the last window is ignored', () => {
  for (const length of [2, 5, 9, 10, 11, 64, 65, 66, 67, 100]) {
    for (const batch of [1, 3]) {
      const windows = new EvaluationWindows(counting(length), { context: 5, batch })
      const seen: number[] = []
      let tokens = 0
      for (const part of windows) {
        part.targets.forEach((target, i) => {
          if (target === -1) return
          expect(target).toBe(part.inputs[i]! + 1)
          seen.push(target)
        })
        tokens += part.tokens
        expect(part.inputs).toHaveLength(part.batch * 5)
      }
      expect(seen).toEqual([...counting(length)].slice(1))
      expect(tokens).toBe(length - 1)
      expect(windows.targetCount).toBe(length - 1)
    }
  }
})

test('evaluation of a limited number of tokens takes windows from the whole text', () => {
  const windows = new EvaluationWindows(counting(1001), { context: 10, batch: 2, tokens: 35 })
  const starts = [...windows].flatMap(({ inputs }) => [inputs[0], inputs[10]])
  expect(windows.targetCount).toBe(40)
  expect(starts).toEqual([0, 250, 500, 750])
})

test('splits the last tenth off, never inside a character', () => {
  expect(splitText('abcdefghij')).toEqual({ train: 'abcdefghi', validation: 'j' })
  expect(splitText('abc', 0)).toEqual({ train: 'abc', validation: '' })
  const { train, validation } = splitText('abcdefgh🧀', 0.1)
  expect([train, validation]).toEqual(['abcdefgh', '🧀'])
  expect(() => splitText('abc', 1)).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
})

test('loads a text file whole: split, encoded, with the bytes of its validation part', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'leanformer-tokens-'))
  try {
    const source = join(dir, 'text.txt')
    await writeFile(source, 'Größe '.repeat(100))
    const common = { text: source, context: 8, batch: 2, seed: 0 }
    const chars = await loadTextDataset({ ...common, tokenizer: 'chars' })
    expect([chars.tokenizer.vocabSize, chars.trainTokens, chars.validationTokens]).toEqual([6, 540, 60])
    expect(chars.validationBytes).toBe(80)
    const bytes = await loadTextDataset({ ...common, tokenizer: new ByteTokenizer() })
    expect([bytes.trainTokens, bytes.validationTokens, bytes.validationBytes]).toEqual([720, 80, 80])
    await expect(loadTextDataset({ ...common, tokenizer: 'bytes', context: 720 })).rejects.toMatchObject({
      code: 'ERR_DATA',
      message: 'tokens: context 720 is too long for 720 training tokens',
      hint: expect.stringContaining('at most 719'),
    })
    expect((await loadTextDataset({ ...common, tokenizer: 'bytes', context: 719 })).train.starts).toBe(1)
  } finally {
    await rm(dir, { recursive: true })
  }
})

test('refuses options and indices that make no sense', () => {
  const bad: [() => unknown, string][] = [
    [() => new TokenWindows(counting(9), { context: 0, batch: 1, seed: 0 }), 'ERR_ARGUMENT'],
    [() => new TokenWindows(counting(9), { context: 2, batch: 1.5, seed: 0 }), 'ERR_ARGUMENT'],
    [() => new TokenWindows(counting(9), { context: 2, batch: 1, seed: 0 }).batch(-1), 'ERR_ARGUMENT'],
    [() => new EvaluationWindows(counting(9), { context: 2, batch: 1 }).batch(4), 'ERR_ARGUMENT'],
    [() => new EvaluationWindows(counting(1), { context: 2, batch: 1 }), 'ERR_DATA'],
  ]
  for (const [call, code] of bad) expect(call).toThrow(expect.objectContaining({ code }))
})
