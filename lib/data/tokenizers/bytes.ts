// UTF-8 bytes as tokens: a vocabulary of 256, nothing to train, every text encodes.

import { assertTokenId, type TokenArray, type Tokenizer, type TokenizerJSON, type TokenStream } from '../tokenizer'

export class ByteTokenizer implements Tokenizer {
  readonly name = 'bytes'
  readonly vocabSize = 256

  encode(text: string): TokenArray {
    return new TextEncoder().encode(text)
  }

  /** Bytes that form no character come out as U+FFFD: a sample may be cut in the middle of one. */
  decode(ids: ArrayLike<number>): string {
    const bytes = new Uint8Array(ids.length)
    for (let i = 0; i < ids.length; i++) {
      assertTokenId(this.name, ids[i]!, this.vocabSize)
      bytes[i] = ids[i]!
    }
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes)
  }

  stream(): TokenStream {
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
    return {
      push: (id) => {
        assertTokenId(this.name, id, this.vocabSize)
        return decoder.decode(Uint8Array.of(id), { stream: true })
      },
      end: () => decoder.decode(),
    }
  }

  toJSON(): TokenizerJSON {
    return { type: 'bytes' }
  }
}
