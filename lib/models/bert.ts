// BERT: an encoder that sees both sides, trained to name masked tokens; and DistilBERT, the same without token types, with
// half the layers. Heads: the masked language model (dense, GELU, norm, then the embedding as output weight, plus a
// bias), and classification of the whole sequence from its first token.
// Source: Devlin et al., arXiv 1810.04805; Sanh et al., arXiv 1910.01108.
import { LeanformerError } from '../native/errors'
import { Chain, everyLayerAgain } from '../autograd/chain'
import { gpt2Normal } from '../init/gpt2'
import { Dropout } from '../nn/dropout'
import { Embedding } from '../nn/embedding'
import { LayerNorm } from '../nn/layer_norm'
import { Linear } from '../nn/linear'
import { Module, type ModuleOptions } from '../nn/module'
import { Parameter } from '../nn/parameter'
import { PostNormBlock } from '../nn/post_norm_block'
import { zeros } from '../ops/creation'
import { crossEntropy } from '../ops/cross_entropy'
import { add, gelu, relu, tanh } from '../ops/elementwise'
import { embedding } from '../ops/embedding'
import { linear } from '../ops/linear'
import { linearCrossEntropy, type LinearCrossEntropyOptions } from '../ops/linear_cross_entropy'
import { reshape } from '../ops/reshape'
import { slice } from '../ops/slice'
import type { Tensor } from '../tensor/tensor'
import { defineModel } from './model_entry'

export interface BertConfig {
  vocab: number
  /** Longest sequence, in tokens. */
  context: number
  layers: number
  width: number
  heads: number
  /** Width of the feed-forward layer; default 4 * width. */
  hidden?: number
  /** Kinds of token, told apart by an embedding: 2 in BERT (default), 0 in DistilBERT. */
  tokenTypes?: number
  /** The head that names masked tokens; default true. */
  maskedLM?: boolean
  /** Classes of a sequence; 0 (default) for no such head. */
  classes?: number
  /** Between the first token's vector and the classes: tanh in BERT (default), relu in DistilBERT. */
  poolerActivation?: 'tanh' | 'relu'
  activation?: 'gelu' | 'gelu_exact' | 'relu'
  normEps?: number
  dropout?: number
  /** Recompute each layer in the backward pass instead of keeping its inner tensors. */
  checkpointing?: boolean
}

/** What a call may say about its tokens. All i32 [batch, tokens]. */
export interface BertInputs {
  /** Tokens see only their own segment; padding is -1. */
  segments?: Tensor | null
  /** Positions within the sample; default 0, 1, ... */
  positions?: Tensor | null
  /** First or second sentence; default 0. */
  tokenTypes?: Tensor | null
}

export class Bert extends Module<[ids: Tensor, inputs?: BertInputs]> {
  tokenEmbedding: Embedding
  positionEmbedding: Embedding
  typeEmbedding: Embedding | null
  embeddingNorm: LayerNorm
  blocks: PostNormBlock[]
  headDense: Linear | null
  headNorm: LayerNorm | null
  headBias: Parameter | null
  pooler: Linear | null
  classifier: Linear | null
  readonly config: Required<BertConfig>
  /** How the layers are run while a tape records. */
  readonly chain = new Chain()
  private readonly dropout: Dropout | null

  constructor(config: BertConfig, options: ModuleOptions = {}) {
    super()
    const full: Required<BertConfig> = {
      hidden: 4 * config.width,
      tokenTypes: 2,
      maskedLM: true,
      classes: 0,
      poolerActivation: 'tanh',
      activation: 'gelu_exact',
      normEps: 1e-12,
      dropout: 0,
      checkpointing: false,
      ...Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined)),
    } as Required<BertConfig>
    checkConfig(full)
    this.config = full
    if (full.checkpointing) this.chain.runner = everyLayerAgain
    const { vocab, context, layers, width, tokenTypes, maskedLM, classes, normEps: eps } = full
    const table = (rows: number) => new Embedding(rows, width, { ...options, init: gpt2Normal() })
    this.tokenEmbedding = table(vocab)
    this.positionEmbedding = table(context)
    this.typeEmbedding = tokenTypes ? table(tokenTypes) : null
    this.embeddingNorm = new LayerNorm(width, { ...options, eps })
    this.blocks = Array.from({ length: layers }, () => new PostNormBlock(width, { ...options, ...full, bias: true, causal: false }))
    this.headDense = maskedLM ? new Linear(width, width, options) : null
    this.headNorm = maskedLM ? new LayerNorm(width, { ...options, eps }) : null
    this.headBias = maskedLM ? new Parameter(zeros([vocab], options)) : null
    this.pooler = classes ? new Linear(width, width, options) : null
    this.classifier = classes ? new Linear(width, classes, options) : null
    this.dropout = full.dropout ? new Dropout(full.dropout) : null
  }

  /** ids i32 [batch, tokens] -> the last hidden states [batch, tokens, width]. */
  forward(ids: Tensor, inputs: BertInputs = {}): Tensor {
    const { segments } = inputs
    const layers = this.blocks.map((block) => (h: Tensor) => block.call(h, { segments }))
    return this.chain.run(layers, this.embed(ids, inputs))
  }

  /** The embedded tokens [batch, tokens, width], as the first layer sees them. */
  embed(ids: Tensor, { positions, tokenTypes }: BertInputs = {}): Tensor {
    this.checkIds(ids)
    let x = embedding(this.tokenEmbedding.weight.value, ids, { positionTable: this.positionEmbedding.weight.value, positions })
    if (this.typeEmbedding) {
      x = add(x, this.typeEmbedding.call(tokenTypes ?? zeros(ids.shape, { dtype: 'i32', device: ids.device })))
    }
    x = this.embeddingNorm.call(x)
    return this.dropout ? this.dropout.call(x) : x
  }

  /** Unnormalised log-probabilities [batch, tokens, vocab] of the token at each place. */
  logits(ids: Tensor, inputs: BertInputs = {}): Tensor {
    return this.headLogits(this.call(ids, inputs))
  }

  /** logits() from the last hidden states. */
  headLogits(hidden: Tensor): Tensor {
    return linear(this.headHidden(hidden), this.tokenEmbedding.weight.value, this.headBias!.value)
  }

  /**
   * Cross-entropy of the masked tokens; targets i32 [batch, tokens], -1 for those that do not count. The [tokens, vocab]
   * logits are never held.
   */
  loss(ids: Tensor, targets: Tensor, inputs: BertInputs = {}, options: LinearCrossEntropyOptions = {}): Tensor {
    return this.headLoss(this.call(ids, inputs), targets, options)
  }

  /** loss() from the last hidden states. */
  headLoss(last: Tensor, targets: Tensor, options: LinearCrossEntropyOptions = {}): Tensor {
    return linearCrossEntropy(this.headHidden(last), this.tokenEmbedding.weight.value, targets, { ...options, bias: this.headBias!.value })
  }

  /** Unnormalised log-probabilities [batch, classes] of each sequence. */
  classLogits(ids: Tensor, inputs: BertInputs = {}): Tensor {
    const { pooler, classifier, config } = this
    if (!pooler || !classifier) throw new LeanformerError('ERR_ARGUMENT', 'Bert: this model has no classes', 'build it with classes: 2 or more')
    const hidden = this.call(ids, inputs)
    const first = reshape(slice(hidden, [0, 0, 0], [hidden.shape[0], 1, config.width]), [hidden.shape[0], config.width])
    const pooled = (config.poolerActivation === 'tanh' ? tanh : relu)(pooler.call(first))
    return classifier.call(this.dropout ? this.dropout.call(pooled) : pooled)
  }

  /** Mean cross-entropy of the sequences' classes, labels i32 [batch]. */
  classLoss(ids: Tensor, labels: Tensor, inputs: BertInputs = {}): Tensor {
    return crossEntropy(this.classLogits(ids, inputs), labels)
  }

  private headHidden(hidden: Tensor): Tensor {
    if (!this.headDense || !this.headNorm) {
      throw new LeanformerError('ERR_ARGUMENT', 'Bert: this model has no masked language model head', 'build it with maskedLM: true')
    }
    const dense = this.headDense.call(hidden)
    const { activation } = this.config
    return this.headNorm.call(activation === 'relu' ? relu(dense) : gelu(dense, activation === 'gelu' ? 'tanh' : 'none'))
  }

  private checkIds(ids: Tensor): void {
    const { context } = this.config
    if (ids.rank !== 2 || ids.dtype !== 'i32') {
      throw new LeanformerError('ERR_SHAPE', `Bert: ids is ${ids.dtype} [${ids.shape.join(', ')}], needs i32 [batch, tokens]`)
    }
    if (ids.shape[1] > context) {
      throw new LeanformerError('ERR_SHAPE', `Bert: ${ids.shape[1]} tokens are more than the context of ${context}`, 'shorten the input')
    }
  }
}

function checkConfig(config: Required<BertConfig>): void {
  const least = { vocab: 1, context: 1, layers: 1, width: 1, heads: 1, hidden: 1, tokenTypes: 0, classes: 0 }
  for (const [name, min] of Object.entries(least)) {
    const value = config[name as keyof typeof least]
    if (!Number.isInteger(value) || value < min) {
      throw new LeanformerError('ERR_ARGUMENT', `Bert: ${name} must be a whole number from ${min} on, got ${value}`)
    }
  }
}

export const bert = defineModel({
  name: 'bert',
  title: 'BERT: an encoder trained on masked tokens',
  source: 'Devlin et al., arXiv 1810.04805',
  objective: 'masked_token',
  fixed: { norm: 'layer_norm', positions: 'learned', tiedHead: true, bias: true },
  create: (shape, options) => {
    const { vocab, context, layers, width, heads, kvHeads = heads, activation, dropout } = shape
    if (kvHeads !== heads || activation === 'swiglu' || activation === 'silu') {
      const [name, value] = kvHeads !== heads ? ['kvHeads', kvHeads] : ['activation', activation]
      throw new LeanformerError('ERR_OPTION', `bert: ${name} is ${value}, which this model does not have`, `leave ${name} out`)
    }
    return new Bert({ vocab, context, layers, width, heads, activation, dropout }, options)
  },
})
