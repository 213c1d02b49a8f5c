// A decoder-only language model with the choices that matter open: norm, activation, positions, tied head, grouped
// queries. The defaults are GPT-2's (Radford et al. 2019).
import { LeanformerError } from '../native/errors'
import { gpt2Normal, gpt2Residual } from '../init/gpt2'
import { Dropout } from '../nn/dropout'
import { Embedding } from '../nn/embedding'
import { KeyValueCache } from '../nn/key_value_cache'
import { LayerNorm } from '../nn/layer_norm'
import { Linear } from '../nn/linear'
import type { MLPActivation } from '../nn/mlp'
import { Module, type ModuleOptions } from '../nn/module'
import type { Parameter } from '../nn/parameter'
import { RMSNorm } from '../nn/rms_norm'
import { TransformerBlock, type BranchOptions } from '../nn/transformer_block'
import { Chain, everyLayerAgain, runStages } from '../autograd/chain'
import { alibiSlopes } from '../ops/alibi'
import { expand } from '../ops/broadcast'
import { cast } from '../ops/cast'
import { concat } from '../ops/concat'
import { add, mulScalar } from '../ops/elementwise'
import { embedding } from '../ops/embedding'
import { linearCrossEntropy, type LinearCrossEntropyOptions } from '../ops/linear_cross_entropy'
import { linear } from '../ops/linear'
import { slice } from '../ops/slice'
import { keep } from '../tensor/scope'
import { tensor, type Tensor } from '../tensor/tensor'
import { defineModel } from './model_entry'

export interface GPTConfig extends BranchOptions {
  vocab: number
  /** Longest sequence, in tokens. */
  context: number
  layers: number
  width: number
  heads: number
  kvHeads?: number
  /** Width of the feed-forward layer; default 4 * width. */
  hidden?: number
  norm?: 'layer_norm' | 'rms_norm' | 'none'
  /** Added to the variance inside every norm; default 1e-5. */
  normEps?: number
  activation?: MLPActivation
  positions?: 'learned' | 'rotary' | 'alibi' | 'none'
  /** The head's weight is the token embedding; default true. */
  tiedHead?: boolean
  bias?: boolean
  dropout?: number
  /** Sliding attention window in tokens; 0 for the whole context. */
  window?: number
  rotaryBase?: number
  /** 'gpsa': gated positional self-attention. */
  attention?: 'softmax' | 'gpsa'
  /** Last layers that keep softmax attention beside gpsa; default 0. */
  plainLayers?: number
  /** Factor of the attention scores; 0 (default) for 1 / sqrt(width per head). */
  attentionScale?: number
  /** Embeddings are multiplied by sqrt(width). */
  scaleEmbeddings?: boolean
  /** Factor of the logits; default 1. */
  logitScale?: number
  /** Sets branchScale, attentionScale and logitScale by the rules of muP; see lib/init/mup.ts. */
  mup?: { baseWidth: number; baseLayers: number; baseHeadWidth: number; depthPower: number } | null
  /** Recompute each layer in the backward pass instead of keeping its inner tensors. */
  checkpointing?: boolean
}

/** What a call may say about its tokens. All i32 [batch, tokens]. */
export interface GPTInputs {
  /** Packed samples: tokens see only their own segment; padding is -1. */
  segments?: Tensor | null
  /** Positions within the sample; default 0, 1, ... */
  positions?: Tensor | null
  /** One cache a layer, from newCache(); for generation. */
  cache?: KeyValueCache[] | null
}

export class GPT extends Module<[ids: Tensor, inputs?: GPTInputs]> {
  tokenEmbedding: Embedding
  positionEmbedding: Embedding | null
  blocks: TransformerBlock[]
  norm: LayerNorm | RMSNorm | null
  head: Linear | null
  /** [vectors, width] before the embedded tokens; set by prompt tuning. */
  prompt: Parameter | null = null
  readonly config: Required<GPTConfig>
  /** How the layers are run while a tape records. */
  readonly chain = new Chain()
  private readonly dropout: Dropout | null
  private readonly slopes: Tensor | null

  constructor(config: GPTConfig, options: ModuleOptions = {}) {
    super()
    const full: Required<GPTConfig> = {
      kvHeads: config.heads,
      hidden: 4 * config.width,
      norm: 'layer_norm',
      normEps: 1e-5,
      activation: 'gelu',
      positions: 'learned',
      tiedHead: true,
      bias: true,
      dropout: 0,
      window: 0,
      rotaryBase: 10000,
      attention: 'softmax',
      plainLayers: 0,
      attentionScale: 0,
      scaleEmbeddings: false,
      logitScale: 1,
      mup: null,
      gates: 'none',
      gateStart: 0,
      shifts: false,
      branchScale: 1,
      checkpointing: false,
      ...Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined)),
    } as Required<GPTConfig>
    checkConfig(full)
    if (full.mup) Object.assign(full, mupFactors(full, full.mup))
    this.config = full
    if (full.checkpointing) this.chain.runner = everyLayerAgain
    const { vocab, context, layers, width, bias } = full
    this.tokenEmbedding = new Embedding(vocab, width, { ...options, init: gpt2Normal() })
    this.positionEmbedding =
      full.positions === 'learned' ? new Embedding(context, width, { ...options, init: gpt2Normal() }) : null
    this.slopes =
      full.positions === 'alibi' ? keep(tensor(alibiSlopes(full.heads), null, { device: options.device })) : null
    this.blocks = Array.from({ length: layers }, (_, i) => this.newBlock(i, options))
    this.norm =
      full.norm === 'none'
        ? null
        : full.norm === 'rms_norm'
          ? new RMSNorm(width, { ...options, eps: full.normEps })
          : new LayerNorm(width, { ...options, bias, eps: full.normEps })
    this.head = full.tiedHead ? null : new Linear(width, vocab, { ...options, bias: false })
    this.dropout = full.dropout ? new Dropout(full.dropout) : null
  }

  /** A fresh layer `index` of this model, which does not have it yet. */
  newBlock(index: number, options: ModuleOptions = {}): TransformerBlock {
    const { config, slopes } = this
    return new TransformerBlock(config.width, {
      ...options,
      ...config,
      causal: true,
      rotaryBase: config.positions === 'rotary' ? config.rotaryBase : undefined,
      slopes,
      scale: config.attentionScale,
      attention: index < config.layers - config.plainLayers ? config.attention : 'softmax',
      residualInit: gpt2Residual(config.layers),
    })
  }

  /** ids i32 [batch, tokens] -> the last hidden states [batch, tokens, width], after the final norm and times logitScale. */
  forward(ids: Tensor, inputs: GPTInputs = {}): Tensor {
    const { cache } = inputs
    this.checkIds(ids, cache)
    let x = this.embed(ids, inputs)
    if (this.dropout) x = this.dropout.call(x)
    const { segments, positions } = inputs
    const layers = this.blocks.map((block, i) => (h: Tensor) => block.call(h, { segments, positions, cache: cache?.[i] }))
    // A cache is filled by one pass alone.
    x = cache ? runStages(layers, x) : this.chain.run(layers, x)
    const prompted = x.shape[1] - ids.shape[1]
    if (prompted) x = slice(x, [0, prompted, 0], [...x.shape])
    if (this.norm) x = this.norm.call(x)
    return this.config.logitScale === 1 ? x : mulScalar(x, this.config.logitScale)
  }

  /** Unnormalised log-probabilities [batch, tokens, vocab] of each next token. */
  logits(ids: Tensor, inputs: GPTInputs = {}): Tensor {
    return this.headLogits(this.call(ids, inputs))
  }

  /** logits() from the last hidden states. */
  headLogits(hidden: Tensor): Tensor {
    return linear(hidden, this.headWeight())
  }

  /** loss() from the last hidden states. */
  headLoss(hidden: Tensor, targets: Tensor, options: LinearCrossEntropyOptions = {}): Tensor {
    return linearCrossEntropy(hidden, this.headWeight(), targets, options)
  }

  /** logits() of the last token only: [batch, 1, vocab]. */
  lastLogits(ids: Tensor, inputs: GPTInputs = {}): Tensor {
    const hidden = this.call(ids, inputs)
    const [batch, tokens, width] = hidden.shape
    return linear(slice(hidden, [0, tokens - 1, 0], [batch, tokens, width]), this.headWeight())
  }

  /**
   * Cross-entropy of the next tokens; targets i32 [batch, tokens], -1 for those that do not count. The [tokens, vocab]
   * logits are never held. See linearCrossEntropy() for `options`.
   */
  loss(ids: Tensor, targets: Tensor, inputs: GPTInputs = {}, options: LinearCrossEntropyOptions = {}): Tensor {
    return this.headLoss(this.call(ids, inputs), targets, options)
  }

  /** Lets `tokens` virtual tokens come on top of the context, where positions are not a table of that length. */
  makeRoom(tokens: number): void {
    if (!this.positionEmbedding) (this.config as { context: number }).context += tokens
  }

  /** Tokens of text that fit beside a prompt or prefix. */
  get room(): number {
    return this.config.context - (this.prompt?.shape[0] ?? 0) - this.prefixLength()
  }

  /** An empty key-value cache for every layer, for `capacity` tokens. */
  newCache(capacity = this.config.context): KeyValueCache[] {
    return this.blocks.map(() => new KeyValueCache(capacity))
  }

  override dispose(): void {
    super.dispose()
    this.slopes?.dispose()
  }

  private headWeight(): Tensor {
    return (this.head ?? this.tokenEmbedding).weight.value
  }

  private embed(ids: Tensor, inputs: GPTInputs): Tensor {
    const before = this.promptLength(inputs.cache)
    const offset = (inputs.cache?.[0].length ?? 0) + this.prefixLength()
    if (!before) return this.embedTokens(ids, inputs, offset)
    if (inputs.segments || inputs.positions) {
      throw new LeanformerError('ERR_ARGUMENT', 'GPT: a prompt has no segment and no given positions', 'leave packed samples, or prompt tuning, out')
    }
    const { width } = this.config
    const table = this.positionEmbedding?.weight.value
    const vectors = cast(this.prompt!.value, this.tokenEmbedding.weight.value.dtype)
    const placed = table ? add(vectors, slice(table, [0, 0], [before, width])) : vectors
    return concat([expand(placed, [ids.shape[0], before, width]), this.embedTokens(ids, inputs, before)], 1)
  }

  /** Vectors of the prompt that this call begins with: later calls find them in the cache. */
  private promptLength(cache?: KeyValueCache[] | null): number {
    return this.prompt && !cache?.[0].length ? this.prompt.shape[0] : 0
  }

  private prefixLength(): number {
    return this.blocks[0]?.attention.prefix?.length ?? 0
  }

  private embedTokens(ids: Tensor, { positions }: GPTInputs, offset: number): Tensor {
    const table = this.tokenEmbedding.weight.value
    const positionTable = this.positionEmbedding?.weight.value
    const x = positionTable
      ? embedding(table, ids, { positionTable, positions, offset })
      : embedding(table, ids)
    return this.config.scaleEmbeddings ? mulScalar(x, Math.sqrt(this.config.width)) : x
  }

  private checkIds(ids: Tensor, cache?: KeyValueCache[] | null): void {
    const { context } = this.config
    if (ids.rank !== 2 || ids.dtype !== 'i32') {
      throw new LeanformerError('ERR_SHAPE', `GPT: ids is ${ids.dtype} [${ids.shape.join(', ')}], needs i32 [batch, tokens]`)
    }
    const length = ids.shape[1] + (cache?.[0].length ?? 0) + this.promptLength(cache) + this.prefixLength()
    if (length > context) {
      throw new LeanformerError('ERR_SHAPE', `GPT: ${length} tokens are more than the context of ${context}`, 'shorten the input')
    }
  }
}

function mupFactors({ width, layers, heads }: GPTConfig, mup: NonNullable<GPTConfig['mup']>): Partial<GPTConfig> {
  return {
    branchScale: (layers / mup.baseLayers) ** -mup.depthPower,
    attentionScale: (Math.sqrt(mup.baseHeadWidth) * heads) / width,
    logitScale: mup.baseWidth / width,
  }
}

function checkConfig(config: Required<GPTConfig>): void {
  for (const name of ['vocab', 'context', 'layers', 'width', 'heads', 'kvHeads', 'hidden'] as const) {
    if (!Number.isInteger(config[name]) || config[name] < 1) {
      throw new LeanformerError('ERR_ARGUMENT', `GPT: ${name} must be a whole number above 0, got ${config[name]}`)
    }
  }
  if (config.positions === 'rotary' && (config.width / config.heads) % 2 !== 0) {
    throw new LeanformerError('ERR_ARGUMENT', 'GPT: rotary positions need an even width per head', 'choose width or heads so')
  }
}

export const gpt = defineModel({
  name: 'gpt',
  title: 'GPT: a decoder with norm, activation, positions and head of your choice',
  source: 'Radford et al. 2019',
  objective: 'next_token',
  fixed: {},
  create: ({ bias = false, ...shape }, options) => new GPT({ bias, ...shape }, options),
})
