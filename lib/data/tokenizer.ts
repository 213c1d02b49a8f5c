// What a tokenizer is, and how one is made: from the command line's word for it, or from what a run folder kept.

import { LeanformerError } from '../native/errors'

export type TokenArray = Uint8Array | Uint16Array | Int32Array

/** Turns ids that arrive one by one into text, holding back what is not yet a whole character. */
export interface TokenStream {
  push(id: number): string
  /** What was held back; a broken character comes out as U+FFFD. */
  end(): string
}

export interface Tokenizer {
  /** `bytes`, `chars` or `huggingface`. */
  readonly name: string
  readonly vocabSize: number
  /** Id of the token that ends a document, where the vocabulary has one. */
  readonly eosId?: number
  encode(text: string): TokenArray
  decode(ids: ArrayLike<number>): string
  stream(): TokenStream
  /** Plain JSON from which `tokenizerFromJSON` rebuilds it. */
  toJSON(): TokenizerJSON
}

export type TokenizerJSON =
  { type: 'bytes' } | { type: 'chars'; chars: string } | { type: 'huggingface'; tokenizer: object; config: object }

/** `bytes`, `chars` (needs the text), or the path of a Hugging Face tokenizer.json or of the folder that holds one. */
export async function createTokenizer(spec: string, text: string): Promise<Tokenizer> {
  if (spec === 'bytes') return new (await import('./tokenizers/bytes')).ByteTokenizer()
  if (spec === 'chars') return (await import('./tokenizers/chars')).CharTokenizer.fromText(text)
  return (await import('./tokenizers/huggingface')).readHuggingFaceTokenizer(spec)
}

export async function tokenizerFromJSON(json: TokenizerJSON): Promise<Tokenizer> {
  switch (json?.type) {
    case 'bytes':
      return new (await import('./tokenizers/bytes')).ByteTokenizer()
    case 'chars':
      return new (await import('./tokenizers/chars')).CharTokenizer(json.chars)
    case 'huggingface':
      return (await import('./tokenizers/huggingface')).huggingFaceTokenizer(json.tokenizer, json.config)
    default:
      throw new LeanformerError(
        'ERR_DATA',
        `tokenizer: unknown type ${JSON.stringify((json as { type?: unknown } | null)?.type)}`,
        'the types are bytes, chars, huggingface',
      )
  }
}

/** An array of the narrowest type that holds ids below `vocabSize`. */
export function tokenArray(vocabSize: number, length: number): TokenArray {
  if (vocabSize <= 2 ** 8) return new Uint8Array(length)
  if (vocabSize <= 2 ** 16) return new Uint16Array(length)
  return new Int32Array(length)
}

/** Mean UTF-8 bytes per token: loss / ln 2 / bytesPerToken is bits per byte, which compares across tokenizers. */
export function bytesPerToken(text: string, tokens: ArrayLike<number>): number {
  return tokens.length === 0 ? 0 : Buffer.byteLength(text) / tokens.length
}

export function assertTokenId(tokenizer: string, id: number, vocabSize: number): void {
  if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
    throw new LeanformerError(
      'ERR_DATA',
      `tokenizer ${tokenizer}: id ${id} is not in the vocabulary`,
      `ids are integers from 0 to ${vocabSize - 1}`,
    )
  }
}
