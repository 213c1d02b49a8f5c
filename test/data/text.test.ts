import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { firstInvalidUtf8, readText } from '../../lib/data/text'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'leanformer-text-'))
})
afterAll(() => rm(dir, { recursive: true }))

const write = async (name: string, bytes: string | Uint8Array): Promise<string> => {
  await writeFile(join(dir, name), bytes)
  return join(dir, name)
}

test('reads a file and counts its bytes', async () => {
  const source = await write('good.txt', 'Käse — 🧀\r\n')
  expect(await readText(source)).toEqual({ source, text: 'Käse — 🧀\r\n', bytes: 16 })
})

test('drops a byte-order mark', async () => {
  expect((await readText(await write('bom.txt', '\ufeffabc'))).text).toBe('abc')
})

test('reads Moby-Dick by name, whole and in order', async () => {
  const { text, bytes } = await readText('moby-dick')
  expect(bytes).toBeGreaterThan(1_200_000)
  expect(bytes).toBe(Buffer.byteLength(text))
  expect(text).toContain('CHAPTER 1. Loomings.\n\nCall me Ishmael. Some years ago')
  expect(text.indexOf('CHAPTER 135. The Chase')).toBeGreaterThan(text.indexOf('CHAPTER 134. The Chase'))
  expect(text).not.toContain('undefined')
  expect(text).not.toContain('\ufffd')
})

test('names the offset of the first byte that is not UTF-8', async () => {
  const cases: [number[], number][] = [
    [[0x61, 0xff], 1],
    [[0x61, 0x62, 0xc3], 2], // cut off
    [[0xe2, 0x82], 0],
    [[0xc0, 0xaf], 0], // overlong
    [[0x61, 0xe0, 0x80, 0x80], 1],
    [[0xed, 0xa0, 0x80], 0], // surrogate
    [[0xf4, 0x90, 0x80, 0x80], 0], // above U+10FFFF
    [[0x80], 0],
  ]
  for (const [bytes, offset] of cases) {
    const source = await write('bad.txt', Uint8Array.from(bytes))
    const hex = bytes[offset]!.toString(16)
    await expect(readText(source)).rejects.toMatchObject({
      code: 'ERR_DATA',
      message: `text: ${source} is not UTF-8: bad byte 0x${hex} at offset ${offset}`,
      hint: expect.stringContaining('iconv'),
    })
  }
})

test('agrees with TextDecoder on what is UTF-8, for all sequences of edge bytes up to four long', () => {
  const edges = [0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5]
  const decoder = new TextDecoder('utf-8', { fatal: true })
  const accepts = (bytes: Uint8Array): boolean => {
    try {
      decoder.decode(bytes)
      return true
    } catch {
      return false
    }
  }
  let accepted = 0
  for (let n = 1; n <= 4; n++) {
    for (let code = 0; code < edges.length ** n; code++) {
      const bytes = Uint8Array.from(
        { length: n },
        (_, i) => edges[Math.floor(code / edges.length ** i) % edges.length]!,
      )
      const valid = firstInvalidUtf8(bytes) < 0
      if (valid !== accepts(bytes)) throw new Error(`disagree on ${[...bytes].map((b) => b.toString(16))}`)
      accepted += Number(valid)
    }
  }
  expect(accepted).toBeGreaterThan(100)
})

test('an absent file, a directory and an empty file are coded errors with a hint', async () => {
  const empty = await write('empty.txt', '')
  const cases: [string, string][] = [
    [join(dir, 'none.txt'), 'does not exist'],
    [join(empty, 'below-a-file'), 'does not exist'],
    [dir, 'is a directory'],
    [empty, 'is empty'],
  ]
  for (const [source, problem] of cases) {
    await expect(readText(source)).rejects.toMatchObject({
      code: 'ERR_DATA',
      message: `text: ${source} ${problem}`,
      hint: expect.stringMatching(/./),
    })
  }
  await expect(readText(join(dir, 'none.txt'))).rejects.toMatchObject({ hint: expect.stringContaining('moby-dick') })
  await expect(readText('toString')).rejects.toMatchObject({ code: 'ERR_DATA' })
})
