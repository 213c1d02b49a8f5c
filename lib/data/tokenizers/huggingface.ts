// Any Hugging Face tokenizer.json, run by @huggingface/tokenizers. A tokenizer_config.json beside it is read too: it
// names the special tokens. Special tokens are not added to what is encoded; documents get their end from `eosId`.

import { readFile, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'

import type { Tokenizer as Inner } from '@huggingface/tokenizers'

import { LeanformerError } from '../../native/errors'
import { assertTokenId, tokenArray, type TokenArray, type Tokenizer, type TokenizerJSON } from '../tokenizer'

interface AddedToken {
  id: number
  content: string
  special?: boolean
}

interface TokenizerFile {
  model?: { vocab?: unknown }
  added_tokens?: AddedToken[]
}

/** The usual names of the token that ends a document, for a tokenizer.json without its config. */
const kEndNames = ['<|endoftext|>', '</s>', '<|end_of_text|>', '<eos>', '<|im_end|>', '[SEP]', '[EOS]', '<end_of_text>']

/** Reads `path`: a tokenizer.json (any name), or a folder that holds one. */
export async function readHuggingFaceTokenizer(path: string): Promise<Tokenizer> {
  const hint = 'give bytes, chars, or the path of a Hugging Face tokenizer.json'
  const info = await stat(path).catch((cause: unknown) => {
    throw new LeanformerError('ERR_DATA', `tokenizer: ${path} does not exist`, hint, { cause })
  })
  const file = info.isDirectory() ? join(path, 'tokenizer.json') : path
  const tokenizer = await readJson(file, hint)
  const config = await readJson(join(dirname(file), 'tokenizer_config.json'), hint).catch((error: LeanformerError) => {
    if ((error.cause as NodeJS.ErrnoException | undefined)?.code === 'ENOENT') return {}
    throw error
  })
  return huggingFaceTokenizer(tokenizer, config, basename(file))
}

async function readJson(path: string, hint: string): Promise<object> {
  try {
    const value: unknown = JSON.parse(await readFile(path, 'utf8'))
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  } catch (cause) {
    throw new LeanformerError('ERR_DATA', `tokenizer: ${path} cannot be read: ${(cause as Error).message}`, hint, {
      cause,
    })
  }
  throw new LeanformerError('ERR_DATA', `tokenizer: ${path} is not a JSON object`, hint)
}

export async function huggingFaceTokenizer(
  tokenizer: object,
  config: object,
  file = 'tokenizer.json',
): Promise<Tokenizer> {
  const model = (tokenizer as TokenizerFile).model
  if (typeof model !== 'object' || model === null || model.vocab === undefined) {
    throw new LeanformerError(
      'ERR_DATA',
      `tokenizer: ${file} has no model.vocab`,
      'a tokenizer.json of Hugging Face has the keys model, pre_tokenizer, decoder, added_tokens',
    )
  }
  const { Tokenizer: InnerTokenizer } = await import('@huggingface/tokenizers')
  let inner: Inner
  try {
    inner = new InnerTokenizer(tokenizer, config)
  } catch (cause) {
    throw new LeanformerError(
      'ERR_DATA',
      `tokenizer: ${file} is not supported: ${(cause as Error).message}`,
      'see the README of @huggingface/tokenizers for what it reads',
      { cause },
    )
  }
  return new HuggingFaceTokenizer(inner, tokenizer, config)
}

class HuggingFaceTokenizer implements Tokenizer {
  readonly name = 'huggingface'
  readonly vocabSize: number
  readonly eosId?: number

  constructor(
    private readonly inner: Inner,
    private readonly tokenizer: object,
    private readonly config: object,
  ) {
    let largest = -1
    for (const id of inner.get_vocab(true).values()) largest = Math.max(largest, id)
    for (const token of (tokenizer as TokenizerFile).added_tokens ?? []) largest = Math.max(largest, token.id)
    this.vocabSize = largest + 1
    const eosId = this.findEnd()
    if (eosId !== undefined) this.eosId = eosId
  }

  encode(text: string): TokenArray {
    const { ids } = this.inner.encode(text, { add_special_tokens: false })
    const out = tokenArray(this.vocabSize, ids.length)
    for (let i = 0; i < ids.length; i++) {
      assertTokenId(this.name, ids[i]!, this.vocabSize)
      out[i] = ids[i]!
    }
    return out
  }

  decode(ids: ArrayLike<number>): string {
    const list = Array.from(ids)
    for (const id of list) assertTokenId(this.name, id, this.vocabSize)
    if (list.length === 0) return ''
    return this.inner.decode(list, { skip_special_tokens: false, clean_up_tokenization_spaces: false })
  }

  /** Decodes a window of ids twice and gives the difference, since a token's text can depend on the one before. */
  stream() {
    let window: number[] = []
    let shown = ''
    const release = (final: boolean): string => {
      const text = this.decode(window)
      if (!final && text.endsWith('\ufffd') && window.length < 16) return ''
      const fresh = text.slice(shown.length)
      window = window.slice(-1)
      shown = this.decode(window)
      return fresh
    }
    return {
      push: (id: number) => {
        window.push(id)
        return release(false)
      },
      end: () => release(true),
    }
  }

  toJSON(): TokenizerJSON {
    return { type: 'huggingface', tokenizer: this.tokenizer, config: this.config }
  }

  private findEnd(): number | undefined {
    const named = (this.config as { eos_token?: string | { content: string } | null }).eos_token
    const content = typeof named === 'object' ? named?.content : named
    if (content !== undefined && content !== null) return this.inner.token_to_id(content)
    return kEndNames.map((name) => this.inner.token_to_id(name)).find((id) => id !== undefined)
  }
}
