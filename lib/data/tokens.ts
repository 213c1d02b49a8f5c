// A token data set: one long array of ids, read in windows of context + 1.
// Training: sample g of the run starts at permutation[g mod n] of epoch floor(g / n), over all n = length - context
// start positions; so the state of the reader is one number, the index of the next micro-batch, and any index is read
// in O(1). Evaluation: windows that follow each other without overlap; the last one is padded with ignored targets.

import { LeanformerError } from '../native/errors'
import { Permutation } from './permutation'
import { readText } from './text'
import { createTokenizer, type TokenArray, type Tokenizer } from './tokenizer'

/** Target that the loss ignores. */
export const kIgnored = -1

export interface TokenBatch {
  /** [batch, context] */
  inputs: Int32Array
  /** [batch, context]: the next token of each input, or -1 where the loss ignores it. */
  targets: Int32Array
  batch: number
  context: number
  /** Targets that count. */
  tokens: number
}

function assertPositive(name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new LeanformerError('ERR_ARGUMENT', `tokens: ${name} is ${value}`, 'give a positive integer')
  }
}

function assertIndex(index: number, end = Number.MAX_SAFE_INTEGER): void {
  if (!Number.isSafeInteger(index) || index < 0 || index >= end) {
    throw new LeanformerError('ERR_ARGUMENT', `tokens: batch index ${index} is out of range`, `give 0 to ${end - 1}`)
  }
}

/** Random windows for training. */
export class TokenWindows {
  readonly context: number
  readonly batchSize: number
  readonly seed: number
  /** Start positions, which is the number of samples in an epoch. */
  readonly starts: number
  private order: { epoch: number; permutation: Permutation } | undefined

  constructor(
    readonly tokens: TokenArray,
    options: { context: number; batch: number; seed: number },
  ) {
    assertPositive('context', options.context)
    assertPositive('batch', options.batch)
    this.context = options.context
    this.batchSize = options.batch
    this.seed = options.seed
    this.starts = tokens.length - options.context
    if (this.starts < 1) {
      throw new LeanformerError(
        'ERR_DATA',
        `tokens: context ${options.context} is too long for ${tokens.length} training tokens`,
        `a window needs context + 1 tokens: give a context of at most ${Math.max(0, tokens.length - 1)}, or more text`,
      )
    }
  }

  /** The micro-batch of that index, counted from the start of the run over all epochs. */
  batch(index: number): TokenBatch {
    assertIndex(index)
    const { batchSize: batch, context } = this
    const inputs = new Int32Array(batch * context)
    const targets = new Int32Array(batch * context)
    for (let row = 0; row < batch; row++) {
      const start = this.startOf(index * batch + row)
      inputs.set(this.tokens.subarray(start, start + context), row * context)
      targets.set(this.tokens.subarray(start + 1, start + 1 + context), row * context)
    }
    return { inputs, targets, batch, context, tokens: batch * context }
  }

  private startOf(sample: number): number {
    const epoch = Math.floor(sample / this.starts)
    if (this.order?.epoch !== epoch) {
      this.order = { epoch, permutation: new Permutation(this.starts, this.seed, epoch) }
    }
    return this.order.permutation.at(sample - epoch * this.starts)
  }
}

/** Every token of the array once, in order, for evaluation: the token-weighted mean over all batches is exact. */
export class EvaluationWindows {
  readonly context: number
  readonly batchSize: number
  /** Number of batches; the last one may have fewer rows. */
  readonly length: number
  /** Targets over all batches. */
  readonly targetCount: number
  /** Place of each window, in windows from the start. */
  private readonly windows: Float64Array

  /** `tokens`: at least that many targets, in windows spread evenly, in place of all of them. */
  constructor(
    readonly tokens: TokenArray,
    options: { context: number; batch: number; tokens?: number },
  ) {
    assertPositive('context', options.context)
    assertPositive('batch', options.batch)
    if (options.tokens !== undefined) assertPositive('tokens', options.tokens)
    this.context = options.context
    this.batchSize = options.batch
    if (tokens.length < 2) {
      throw new LeanformerError(
        'ERR_DATA',
        `tokens: ${tokens.length} validation tokens are too few: the loss needs a token and the one after it`,
        'give more text, or a larger share of it for validation',
      )
    }
    const all = Math.ceil((tokens.length - 1) / this.context)
    const count = Math.min(all, Math.ceil((options.tokens ?? Infinity) / this.context))
    this.windows = Float64Array.from({ length: count }, (_, i) => Math.floor((i * all) / count))
    this.length = Math.ceil(count / this.batchSize)
    let targets = 0
    for (const window of this.windows) targets += this.targetsOf(window)
    this.targetCount = targets
  }

  batch(index: number): TokenBatch {
    assertIndex(index, this.length)
    const { context } = this
    const rows = this.windows.subarray(index * this.batchSize, (index + 1) * this.batchSize)
    const inputs = new Int32Array(rows.length * context)
    const targets = new Int32Array(rows.length * context).fill(kIgnored)
    let counted = 0
    rows.forEach((window, row) => {
      const start = window * context
      const count = this.targetsOf(window)
      inputs.set(this.tokens.subarray(start, start + count), row * context)
      targets.set(this.tokens.subarray(start + 1, start + 1 + count), row * context)
      counted += count
    })
    return { inputs, targets, batch: rows.length, context, tokens: counted }
  }

  *[Symbol.iterator](): Generator<TokenBatch> {
    for (let i = 0; i < this.length; i++) yield this.batch(i)
  }

  private targetsOf(window: number): number {
    return Math.min(this.context, this.tokens.length - 1 - window * this.context)
  }
}

/** Splits a text in two, the last `validation` share of its characters second, never inside a character. */
export function splitText(text: string, validation = 0.1): { train: string; validation: string } {
  if (!(validation >= 0 && validation < 1)) {
    throw new LeanformerError(
      'ERR_OPTION',
      `tokens: validation share is ${validation}`,
      'give a number from 0 to below 1',
    )
  }
  let cut = Math.floor(text.length * (1 - validation))
  const code = text.charCodeAt(cut)
  if (cut > 0 && code >= 0xdc00 && code <= 0xdfff) cut--
  return { train: text.slice(0, cut), validation: text.slice(cut) }
}

export interface TextDatasetOptions {
  /** A path or a dataset's name. */
  text: string
  /** `bytes`, `chars`, a tokenizer.json, or a tokenizer that is there already. */
  tokenizer: string | Tokenizer
  context: number
  batch: number
  seed: number
  /** Share of the text, at its end, that is kept for validation. Default 0.1. */
  validation?: number
  /** Limit of the tokens that an evaluation reads. Default: all. */
  evalTokens?: number
}

export interface TextDataset {
  source: string
  tokenizer: Tokenizer
  train: TokenWindows
  validation: EvaluationWindows
  trainTokens: number
  validationTokens: number
  /** UTF-8 bytes of the validation text: the divisor of bits per byte. */
  validationBytes: number
  /** SHA-256 of the whole text, in hex. */
  sha256: string
}

/** Reads, splits and encodes a text. The characters of `chars` come from the whole of it, as nanoGPT does it. */
export async function loadTextDataset(options: TextDatasetOptions): Promise<TextDataset> {
  const { source, text } = await readText(options.text)
  const { tokenizer: spec, context, batch, seed } = options
  const tokenizer = typeof spec === 'string' ? await createTokenizer(spec, text) : spec
  const parts = splitText(text, options.validation)
  const { createHash } = await import('node:crypto') // slow to load, and needed here alone
  const trainTokens = tokenizer.encode(parts.train)
  const validationTokens = tokenizer.encode(parts.validation)
  return {
    source,
    tokenizer,
    train: new TokenWindows(trainTokens, { context, batch, seed }),
    validation: new EvaluationWindows(validationTokens, {
      context,
      batch,
      ...(options.evalTokens === undefined ? {} : { tokens: options.evalTokens }),
    }),
    trainTokens: trainTokens.length,
    validationTokens: validationTokens.length,
    sha256: createHash('sha256').update(text).digest('hex'),
    validationBytes: Buffer.byteLength(parts.validation),
  }
}
