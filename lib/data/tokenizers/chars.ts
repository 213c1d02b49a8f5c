// Characters as tokens: the vocabulary is the sorted distinct code points of the training text.

import { LeanformerError } from '../../native/errors'
import {
  assertTokenId,
  tokenArray,
  type TokenArray,
  type Tokenizer,
  type TokenizerJSON,
  type TokenStream,
} from '../tokenizer'

export class CharTokenizer implements Tokenizer {
  readonly name = 'chars'
  readonly vocabSize: number
  private readonly chars: string[]
  private readonly ids = new Map<number, number>()

  /** `chars`: every character of the vocabulary once; its place is its id. */
  constructor(chars: string) {
    this.chars = [...chars]
    this.vocabSize = this.chars.length
    this.chars.forEach((char, id) => this.ids.set(char.codePointAt(0)!, id))
    if (this.vocabSize === 0 || this.ids.size !== this.vocabSize) {
      throw new LeanformerError(
        'ERR_DATA',
        `tokenizer chars: ${this.vocabSize} characters were given, ${this.ids.size} of them distinct`,
        'give every character once, and at least one',
      )
    }
  }

  static fromText(text: string): CharTokenizer {
    const points = new Set<number>()
    for (let i = 0; i < text.length; i++) {
      const point = text.codePointAt(i)!
      points.add(point)
      if (point > 0xffff) i++
    }
    return new CharTokenizer(
      [...points]
        .sort((a, b) => a - b)
        .map((p) => String.fromCodePoint(p))
        .join(''),
    )
  }

  encode(text: string): TokenArray {
    const ids = tokenArray(this.vocabSize, text.length)
    let count = 0
    for (let i = 0; i < text.length; i++) {
      const point = text.codePointAt(i)!
      const id = this.ids.get(point)
      if (id === undefined) throw this.unknown(point, i)
      ids[count++] = id
      if (point > 0xffff) i++
    }
    return count === ids.length ? ids : ids.slice(0, count)
  }

  decode(ids: ArrayLike<number>): string {
    const parts: string[] = []
    for (let i = 0; i < ids.length; i++) {
      assertTokenId(this.name, ids[i]!, this.vocabSize)
      parts.push(this.chars[ids[i]!]!)
    }
    return parts.join('')
  }

  stream(): TokenStream {
    return { push: (id) => this.decode([id]), end: () => '' }
  }

  toJSON(): TokenizerJSON {
    return { type: 'chars', chars: this.chars.join('') }
  }

  private unknown(point: number, place: number): LeanformerError {
    const char = JSON.stringify(String.fromCodePoint(point))
    const code = `U+${point.toString(16).toUpperCase().padStart(4, '0')}`
    return new LeanformerError(
      'ERR_DATA',
      `tokenizer chars: ${char} (${code}) at offset ${place} is not in the vocabulary`,
      'the vocabulary is the characters of the training text; the tokenizer bytes encodes every text',
    )
  }
}
