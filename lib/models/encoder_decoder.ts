// An encoder reads the source, a decoder writes the target token by token and looks at all of the encoded source; one
// table embeds both and is the head. Norms after each branch, as in the original and in BART, before them, or none.
// Source: Vaswani et al., arXiv 1706.03762; BART: Lewis et al., arXiv 1910.13461.
import { LeanformerError } from '../native/errors'
import { Chain } from '../autograd/chain'
import { gpt2Normal, gpt2Residual } from '../init/gpt2'
import { DecoderBlock } from '../nn/decoder_block'
import { Dropout } from '../nn/dropout'
import { Embedding } from '../nn/embedding'
import { LayerNorm } from '../nn/layer_norm'
import type { MLPActivation } from '../nn/mlp'
import { Module, type ModuleOptions } from '../nn/module'
import { PostNormBlock } from '../nn/post_norm_block'
import { TransformerBlock } from '../nn/transformer_block'
import { zeros } from '../ops/creation'
import { add, notEqual, scale } from '../ops/elementwise'
import { embedding } from '../ops/embedding'
import { linear } from '../ops/linear'
import { linearCrossEntropy, type LinearCrossEntropyOptions } from '../ops/linear_cross_entropy'
import type { Tensor } from '../tensor/tensor'
import { layerNames, loadForeign, saveForeign, type ForeignName } from './huggingface'

export interface EncoderDecoderConfig {
  vocab: number
  /** Longest source and target, in tokens. */
  context: number
  encoderLayers: number
  decoderLayers: number
  width: number
  heads: number
  /** Width of the feed-forward layers; default 4 * width. */
  hidden?: number
  decoderHidden?: number
  norm?: 'pre' | 'post' | 'none'
  normEps?: number
  activation?: MLPActivation
  /** A norm right after the embeddings, as in BART; default false. */
  embeddingNorm?: boolean
  /** Token embeddings are multiplied by sqrt(width); default false. */
  scaleEmbeddings?: boolean
  /** Place of the first token in the table of positions, which has so many rows more: 2 in BART. Default 0. */
  positionOffset?: number
  dropout?: number
}

export interface EncoderDecoderInputs {
  /** i32 [batch, source tokens]: -1 for padding, anything else for a token. */
  segments?: Tensor | null
}

export class EncoderDecoder extends Module<[source: Tensor, target: Tensor, inputs?: EncoderDecoderInputs]> {
  tokenEmbedding: Embedding
  sourcePositions: Embedding
  targetPositions: Embedding
  sourceNorm: LayerNorm | null
  targetNorm: LayerNorm | null
  encoder: (TransformerBlock | PostNormBlock)[]
  decoder: DecoderBlock[]
  /** After the last layers of a pre-norm model. */
  encoderNorm: LayerNorm | null
  decoderNorm: LayerNorm | null
  readonly config: Required<EncoderDecoderConfig>
  /** How the layers are run while a tape records. */
  readonly encoderChain = new Chain()
  readonly decoderChain = new Chain()
  private readonly dropout: Dropout | null

  constructor(config: EncoderDecoderConfig, options: ModuleOptions = {}) {
    super()
    const full: Required<EncoderDecoderConfig> = {
      hidden: 4 * config.width,
      decoderHidden: config.hidden ?? 4 * config.width,
      norm: 'post',
      normEps: 1e-5,
      activation: 'gelu_exact',
      embeddingNorm: false,
      scaleEmbeddings: false,
      positionOffset: 0,
      dropout: 0,
      ...Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined)),
    } as Required<EncoderDecoderConfig>
    for (const name of ['vocab', 'context', 'encoderLayers', 'decoderLayers', 'width', 'heads'] as const) {
      if (!Number.isInteger(full[name]) || full[name] < 1) {
        throw new LeanformerError('ERR_ARGUMENT', `EncoderDecoder: ${name} must be a whole number above 0, got ${full[name]}`)
      }
    }
    this.config = full
    const { width, context, positionOffset, encoderLayers, decoderLayers, norm, normEps } = full
    const table = (rows: number) => new Embedding(rows, width, { ...options, init: gpt2Normal() })
    const normIf = (wanted: boolean) => (wanted ? new LayerNorm(width, { ...options, eps: normEps }) : null)
    this.tokenEmbedding = table(full.vocab)
    this.sourcePositions = table(context + positionOffset)
    this.targetPositions = table(context + positionOffset)
    this.sourceNorm = normIf(full.embeddingNorm)
    this.targetNorm = normIf(full.embeddingNorm)
    const { heads, hidden, decoderHidden, activation, dropout } = full
    const shared = { ...options, heads, activation, dropout, normEps, bias: true }
    const side = { ...shared, hidden, causal: false, residualInit: gpt2Residual(encoderLayers) }
    this.encoder = Array.from({ length: encoderLayers }, () =>
      norm === 'post' ? new PostNormBlock(width, side) : new TransformerBlock(width, { ...side, norm: norm === 'pre' ? 'layer_norm' : 'none' }),
    )
    this.decoder = Array.from(
      { length: decoderLayers },
      () => new DecoderBlock(width, { ...shared, hidden: decoderHidden, norm, residualInit: gpt2Residual(decoderLayers) }),
    )
    this.encoderNorm = normIf(norm === 'pre')
    this.decoderNorm = normIf(norm === 'pre')
    this.dropout = dropout ? new Dropout(dropout) : null
  }

  /** source i32 [batch, source tokens] -> the encoded source [batch, source tokens, width]. */
  encode(source: Tensor, { segments }: EncoderDecoderInputs = {}): Tensor {
    let x = this.embed(source, this.sourcePositions, this.sourceNorm)
    x = this.encoderChain.run(this.encoder.map((block) => (h: Tensor) => block.call(h, { segments })), x)
    return this.encoderNorm ? this.encoderNorm.call(x) : x
  }

  /** target i32 [batch, tokens] -> the decoder's hidden states [batch, tokens, width]. */
  decode(target: Tensor, memory: Tensor, { segments }: EncoderDecoderInputs = {}): Tensor {
    const mask = segments ? notEqual(segments, -1) : null
    let x = this.embed(target, this.targetPositions, this.targetNorm)
    x = this.decoderChain.run(this.decoder.map((block) => (h: Tensor, shared: Tensor) => block.call(h, shared, mask)), x, [memory])
    return this.decoderNorm ? this.decoderNorm.call(x) : x
  }

  forward(source: Tensor, target: Tensor, inputs: EncoderDecoderInputs = {}): Tensor {
    return this.decode(target, this.encode(source, inputs), inputs)
  }

  /** Unnormalised log-probabilities [batch, tokens, vocab] of what follows each target token. */
  logits(source: Tensor, target: Tensor, inputs: EncoderDecoderInputs = {}): Tensor {
    return linear(this.call(source, target, inputs), this.tokenEmbedding.weight.value)
  }

  /** Cross-entropy of the tokens that follow; targets i32 [batch, tokens], -1 for those that do not count. */
  loss(source: Tensor, target: Tensor, targets: Tensor, inputs: EncoderDecoderInputs = {}, options: LinearCrossEntropyOptions = {}): Tensor {
    return linearCrossEntropy(this.call(source, target, inputs), this.tokenEmbedding.weight.value, targets, options)
  }

  private embed(ids: Tensor, positions: Embedding, norm: LayerNorm | null): Tensor {
    const { context, width, scaleEmbeddings, positionOffset: offset } = this.config
    if (ids.rank !== 2 || ids.dtype !== 'i32' || ids.shape[1] > context) {
      throw new LeanformerError('ERR_SHAPE', `EncoderDecoder: ids are ${ids.dtype} [${ids.shape.join(', ')}], needs i32 [batch, at most ${context} tokens]`)
    }
    const table = this.tokenEmbedding.weight.value
    let x: Tensor
    if (scaleEmbeddings) {
      const places = zeros(ids.shape, { dtype: 'i32', device: ids.device })
      const none = zeros([1, width], { dtype: table.dtype, device: ids.device })
      // The same pass with a row of zeros in place of tokens gives the positions alone.
      x = add(scale(embedding(table, ids), Math.sqrt(width)), embedding(none, places, { positionTable: positions.weight.value, offset }))
    } else x = embedding(table, ids, { positionTable: positions.weight.value, offset })
    if (norm) x = norm.call(x)
    return this.dropout ? this.dropout.call(x) : x
  }

  /** Names in a BartForConditionalGeneration of transformers; a post-norm model with embeddingNorm and positionOffset 2. */
  foreignNames(): ForeignName[] {
    const { width, encoderLayers, decoderLayers, norm, embeddingNorm } = this.config
    if (norm !== 'post' || !embeddingNorm) {
      throw new LeanformerError('ERR_ARGUMENT', 'EncoderDecoder: transformers has no names for this model', "only for norm: 'post' with embeddingNorm, which is BART")
    }
    const withBias = { bias: true }
    const names: ForeignName[] = [
      { ours: 'token_embedding.weight', theirs: ['model.shared.weight'] },
      { ours: 'source_positions.weight', theirs: ['model.encoder.embed_positions.weight'] },
      { ours: 'target_positions.weight', theirs: ['model.decoder.embed_positions.weight'] },
      ...layerNames('source_norm', ['model.encoder.layernorm_embedding'], withBias),
      ...layerNames('target_norm', ['model.decoder.layernorm_embedding'], withBias),
    ]
    const common = (ours: string, theirs: string, lastNorm: string) => [
      ...layerNames(`${ours}.attention.qkv`, ['q', 'k', 'v'].map((name) => `${theirs}.self_attn.${name}_proj`), { bias: true, rows: [width, width, width] }),
      ...layerNames(`${ours}.attention.out`, [`${theirs}.self_attn.out_proj`], withBias),
      ...layerNames(`${ours}.norm1`, [`${theirs}.self_attn_layer_norm`], withBias),
      ...layerNames(`${ours}.mlp.up`, [`${theirs}.fc1`], withBias),
      ...layerNames(`${ours}.mlp.down`, [`${theirs}.fc2`], withBias),
      ...layerNames(`${ours}.${lastNorm}`, [`${theirs}.final_layer_norm`], withBias),
    ]
    for (let i = 0; i < encoderLayers; ++i) names.push(...common(`encoder.${i}`, `model.encoder.layers.${i}`, 'norm2'))
    for (let i = 0; i < decoderLayers; ++i) {
      const [ours, theirs] = [`decoder.${i}`, `model.decoder.layers.${i}`]
      names.push(
        ...common(ours, theirs, 'norm3'),
        ...layerNames(`${ours}.cross.q`, [`${theirs}.encoder_attn.q_proj`], withBias),
        ...layerNames(`${ours}.cross.kv`, ['k', 'v'].map((name) => `${theirs}.encoder_attn.${name}_proj`), { bias: true, rows: [width, width] }),
        ...layerNames(`${ours}.cross.out`, [`${theirs}.encoder_attn.out_proj`], withBias),
        ...layerNames(`${ours}.norm2`, [`${theirs}.encoder_attn_layer_norm`], withBias),
      )
    }
    return names
  }

  /** The model of a BART's config.json and tensors. @throws ERR_CHECKPOINT, ERR_ARGUMENT */
  static fromForeign(
    config: Readonly<Record<string, unknown>>,
    tensors: Map<string, Tensor>,
    options: ModuleOptions & { ignore?: readonly RegExp[] } = {},
  ): EncoderDecoder {
    const model = new EncoderDecoder(bartConfig(config), options)
    // The one table may be there again under each of its uses; the bias of the logits is never trained, and 0.
    const own = [/^final_logits_bias$/, /^lm_head\.weight$/, /\.embed_tokens\.weight$/]
    loadForeign(model, model.foreignNames(), tensors, [...own, ...(options.ignore ?? [])])
    return model
  }

  /** The parameters under BART's names; the copies belong to the caller. */
  toForeign(): Map<string, Tensor> {
    const found = saveForeign(this, this.foreignNames())
    return found.set('final_logits_bias', zeros([1, this.config.vocab], { device: this.tokenEmbedding.weight.tensor.device }))
  }
}

/** A config.json of BART as our configuration. @throws ERR_ARGUMENT for what is not implemented */
export function bartConfig(config: Readonly<Record<string, unknown>>): EncoderDecoderConfig {
  const refuse = (key: string) =>
    new LeanformerError('ERR_ARGUMENT', `EncoderDecoder: ${key} is ${JSON.stringify(config[key])} in config.json, which is not supported`)
  if (config.model_type !== 'bart') throw refuse('model_type')
  const activation = ({ gelu: 'gelu_exact', gelu_new: 'gelu', relu: 'relu' } as const)[(config.activation_function ?? 'gelu') as 'gelu']
  if (!activation) throw refuse('activation_function')
  if (config.encoder_attention_heads !== config.decoder_attention_heads) throw refuse('decoder_attention_heads')
  const number = (name: string) => config[name] as number
  return {
    vocab: number('vocab_size'),
    context: number('max_position_embeddings'),
    encoderLayers: number('encoder_layers'),
    decoderLayers: number('decoder_layers'),
    width: number('d_model'),
    heads: number('encoder_attention_heads'),
    hidden: number('encoder_ffn_dim'),
    decoderHidden: number('decoder_ffn_dim'),
    activation,
    embeddingNorm: true,
    scaleEmbeddings: (config.scale_embedding as boolean | undefined) ?? false,
    positionOffset: 2,
  }
}
