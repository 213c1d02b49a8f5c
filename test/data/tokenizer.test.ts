import { readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import fc from 'fast-check'

import { bytesPerToken, createTokenizer, tokenizerFromJSON, type Tokenizer } from '../../lib/data/tokenizer'

// A byte-level BPE of 400 tokens and what the Python package tokenizers 0.23 makes of some texts.
const golden = join(__dirname, 'golden', 'byte_level_bpe.json')
const goldenIds = JSON.parse(readFileSync(join(__dirname, 'golden', 'byte_level_bpe_ids.json'), 'utf8')) as {
  text: string
  ids: number[]
}[]

const streamed = (tokenizer: Tokenizer, ids: ArrayLike<number>): string => {
  const stream = tokenizer.stream()
  return Array.from(ids, (id) => stream.push(id)).join('') + stream.end()
}

const code = 'ERR_DATA'

describe.each([['bytes'], ['chars'], [golden]])('%s', (spec) => {
  const alphabet = 'abc ABC,.\n\r\tKäse — 🧀 你好 \u0301'
  const texts = fc.string({ unit: fc.constantFrom(...alphabet), maxLength: 60 })

  test('decodes what it encoded, at once and token by token, also after a round trip through JSON', async () => {
    const tokenizer = await createTokenizer(spec, alphabet)
    const rebuilt = await tokenizerFromJSON(JSON.parse(JSON.stringify(tokenizer)))
    expect([rebuilt.name, rebuilt.vocabSize, rebuilt.eosId]).toEqual([
      tokenizer.name,
      tokenizer.vocabSize,
      tokenizer.eosId,
    ])
    fc.assert(
      fc.property(texts, (text) => {
        const ids = tokenizer.encode(text)
        expect([...rebuilt.encode(text)]).toEqual([...ids])
        expect(Math.max(-1, ...ids)).toBeLessThan(tokenizer.vocabSize)
        expect(tokenizer.decode(ids)).toBe(text)
        expect(rebuilt.decode(ids)).toBe(text)
        expect(streamed(tokenizer, ids)).toBe(text)
      }),
    )
  })

  test('refuses ids outside the vocabulary', async () => {
    const tokenizer = await createTokenizer(spec, alphabet)
    for (const id of [-1, tokenizer.vocabSize, 0.5]) {
      expect(() => tokenizer.decode([id])).toThrow(
        expect.objectContaining({ code, hint: expect.stringContaining('0 to') }),
      )
    }
  })
})

test('bytes: the vocabulary is 256, and a character cut in half decodes to U+FFFD', async () => {
  const tokenizer = await createTokenizer('bytes', '')
  expect(tokenizer.vocabSize).toBe(256)
  expect([...tokenizer.encode('é')]).toEqual([0xc3, 0xa9])
  expect(tokenizer.decode([0x61, 0xc3])).toBe('a\ufffd')
  const stream = tokenizer.stream()
  expect([stream.push(0xc3), stream.push(0xa9), stream.push(0xc3), stream.end()]).toEqual(['', 'é', '', '\ufffd'])
})

test('chars: the vocabulary is the sorted distinct code points', async () => {
  const tokenizer = await createTokenizer('chars', 'banana 🧀\n')
  expect(tokenizer.toJSON()).toEqual({ type: 'chars', chars: '\n abn🧀' })
  expect([...tokenizer.encode('🧀 ban')]).toEqual([5, 1, 3, 2, 4])
  expect(tokenizer.encode('').length).toBe(0)
})

test('chars: a character that is not in the vocabulary is named with its place', async () => {
  const tokenizer = await createTokenizer('chars', 'abc')
  expect(() => tokenizer.encode('ab🧀')).toThrow(
    expect.objectContaining({
      code,
      message: 'tokenizer chars: "🧀" (U+1F9C0) at offset 2 is not in the vocabulary',
      hint: expect.stringContaining('bytes'),
    }),
  )
  await expect(tokenizerFromJSON({ type: 'chars', chars: 'aba' })).rejects.toMatchObject({ code })
})

test('Hugging Face: the ids are those of the Python package', async () => {
  const tokenizer = await createTokenizer(golden, '')
  expect(tokenizer.vocabSize).toBe(400)
  expect(tokenizer.eosId).toBe(0)
  expect(goldenIds.length).toBeGreaterThan(4)
  for (const { text, ids } of goldenIds) {
    expect([...tokenizer.encode(text)]).toEqual(ids)
    expect(tokenizer.decode(ids)).toBe(text)
  }
})

test('Hugging Face: the config beside the file names the end token; a folder is a path too', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'leanformer-tokenizer-'))
  try {
    await writeFile(join(dir, 'tokenizer.json'), readFileSync(golden))
    await writeFile(join(dir, 'tokenizer_config.json'), JSON.stringify({ eos_token: { content: '!' } }))
    const tokenizer = await createTokenizer(dir, '')
    expect(tokenizer.eosId).toBe(tokenizer.encode('!')[0])
    expect(tokenizer.eosId).not.toBe(0)
    await writeFile(join(dir, 'tokenizer_config.json'), '{')
    await expect(createTokenizer(dir, '')).rejects.toMatchObject({
      code,
      message: expect.stringContaining('config.json'),
    })
  } finally {
    await rm(dir, { recursive: true })
  }
})

test('what is not a tokenizer is a coded error', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'leanformer-tokenizer-'))
  try {
    const file = join(dir, 'x.json')
    await expect(createTokenizer(file, '')).rejects.toMatchObject({
      code,
      message: `tokenizer: ${file} does not exist`,
    })
    await expect(createTokenizer(dir, '')).rejects.toMatchObject({ code })
    for (const content of ['{', '[]', '{}', '{"model":{"type":"Unheard","vocab":{"a":0}}}']) {
      await writeFile(file, content)
      await expect(createTokenizer(file, '')).rejects.toMatchObject({ code, hint: expect.stringMatching(/./) })
    }
  } finally {
    await rm(dir, { recursive: true })
  }
  await expect(tokenizerFromJSON({ type: 'words' } as never)).rejects.toMatchObject({ code })
})

test('bytes per token', async () => {
  expect(bytesPerToken('äb', (await createTokenizer('chars', 'äb')).encode('äb'))).toBe(1.5)
  expect(bytesPerToken('', [])).toBe(0)
})
