// Vision transformers: an image is cut into patches, each a token. ViT prepends a class token to all layers; ConViT starts
// with layers of gated positional self-attention over the patches alone, each head at first a place of a convolution's
// kernel, and its class token joins after them.
// Source: Dosovitskiy et al., arXiv 2010.11929; d'Ascoli et al., arXiv 2103.10697.
import { LeanformerError } from '../native/errors'
import { Chain } from '../autograd/chain'
import { gpt2Normal } from '../init/gpt2'
import { Conv2d } from '../nn/conv'
import { Dropout } from '../nn/dropout'
import { LayerNorm } from '../nn/layer_norm'
import { Linear } from '../nn/linear'
import type { MLPActivation } from '../nn/mlp'
import { Module, type ModuleOptions } from '../nn/module'
import { Parameter } from '../nn/parameter'
import { TransformerBlock } from '../nn/transformer_block'
import { expand } from '../ops/broadcast'
import { concat } from '../ops/concat'
import { zeros } from '../ops/creation'
import { crossEntropy } from '../ops/cross_entropy'
import { add } from '../ops/elementwise'
import { transpose } from '../ops/permute'
import { reshape } from '../ops/reshape'
import { slice } from '../ops/slice'
import { scope } from '../tensor/scope'
import type { Tensor } from '../tensor/tensor'
import { layerNames, loadForeign, saveForeign, type ForeignName } from './huggingface'

export interface ViTConfig {
  /** Side of the square images, in pixels; a multiple of `patch`. */
  image: number
  /** Side of a patch, in pixels. */
  patch: number
  /** Default 3. */
  channels?: number
  classes: number
  layers: number
  width: number
  heads: number
  /** Width of the feed-forward layer; default 4 * width. */
  hidden?: number
  activation?: MLPActivation
  normEps?: number
  /** Biases of queries, keys and values; default true. */
  qkvBias?: boolean
  /** First layers with gated positional self-attention, over patches alone: 10 of 12 in ConViT. Default 0. */
  gpsaLayers?: number
  dropout?: number
}

export class ViT extends Module<[images: Tensor]> {
  patchEmbedding: Conv2d
  /** [1, 1, width] */
  classToken: Parameter
  /** [1, tokens, width]: of the patches, and of the class token before them where it joins at once. */
  positionEmbedding: Parameter
  blocks: TransformerBlock[]
  norm: LayerNorm
  head: Linear
  readonly config: Required<ViTConfig>
  /** How the layers are run while a tape records. */
  readonly chain = new Chain()
  private readonly dropout: Dropout | null

  constructor(config: ViTConfig, options: ModuleOptions = {}) {
    super()
    const full: Required<ViTConfig> = {
      channels: 3,
      hidden: 4 * config.width,
      activation: 'gelu_exact',
      normEps: 1e-12,
      qkvBias: true,
      gpsaLayers: 0,
      dropout: 0,
      ...Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined)),
    } as Required<ViTConfig>
    const { image, patch, channels, classes, layers, width, heads, gpsaLayers, normEps } = full
    if (!(image >= patch && image % patch === 0)) {
      throw new LeanformerError('ERR_ARGUMENT', `ViT: an image of ${image} pixels does not divide into patches of ${patch}`, 'give a multiple of patch')
    }
    if (!(gpsaLayers >= 0 && gpsaLayers <= layers)) {
      throw new LeanformerError('ERR_ARGUMENT', `ViT: gpsaLayers is ${gpsaLayers} of ${layers} layers`, `give a whole number from 0 to ${layers}`)
    }
    this.config = full
    const side = image / patch
    const start = gpt2Normal()
    this.patchEmbedding = new Conv2d(channels, width, patch, { ...options, stride: patch })
    this.classToken = new Parameter(start([1, 1, width], options))
    this.positionEmbedding = new Parameter(start([1, side * side + (gpsaLayers ? 0 : 1), width], options))
    this.blocks = Array.from({ length: layers }, (_, i) => {
      const shared = { ...options, ...full, heads, bias: true, causal: false }
      return new TransformerBlock(width, i < gpsaLayers ? { ...shared, attention: 'gpsa', grid: [side, side] } : shared)
    })
    this.norm = new LayerNorm(width, { ...options, eps: normEps })
    this.head = new Linear(width, classes, options)
    this.dropout = full.dropout ? new Dropout(full.dropout) : null
  }

  /** images [batch, channels, height, width] -> hidden states [batch, 1 + patches, width], the class token first. */
  forward(images: Tensor): Tensor {
    const { image, channels, width, gpsaLayers } = this.config
    if (images.rank !== 4 || images.shape.slice(1).join() !== [channels, image, image].join()) {
      throw new LeanformerError('ERR_SHAPE', `ViT: images have shape [${images.shape.join(', ')}], needs [batch, ${channels}, ${image}, ${image}]`)
    }
    const batch = images.shape[0]
    const patches = this.patchEmbedding.call(images)
    const withClass = (h: Tensor) => concat([expand(this.classToken.value, [batch, 1, width]), h], 1)
    let x = transpose(reshape(patches, [batch, width, patches.size / (batch * width)]))
    if (!gpsaLayers) x = withClass(x)
    x = add(x, this.positionEmbedding.value)
    if (this.dropout) x = this.dropout.call(x)
    const layers = this.blocks.map((block, i) => (h: Tensor) => {
      return gpsaLayers && i === gpsaLayers ? scope(() => block.call(withClass(h))) : block.call(h)
    })
    x = this.chain.run(layers, x)
    if (gpsaLayers === this.blocks.length) x = withClass(x)
    return this.norm.call(x)
  }

  /** Unnormalised log-probabilities [batch, classes]. */
  logits(images: Tensor): Tensor {
    const hidden = this.call(images)
    const [batch, , width] = hidden.shape
    return this.head.call(reshape(slice(hidden, [0, 0, 0], [batch, 1, width]), [batch, width]))
  }

  /** Mean cross-entropy; labels i32 [batch]. */
  loss(images: Tensor, labels: Tensor): Tensor {
    return crossEntropy(this.logits(images), labels)
  }

  /** Names in a ViTForImageClassification of transformers, or in timm's ConVit. */
  foreignNames(): ForeignName[] {
    const { width, layers, gpsaLayers, qkvBias } = this.config
    const withBias = { bias: true }
    if (!gpsaLayers) {
      const embedding = (ours: string, theirs: string) => ({ ours, theirs: [`vit.embeddings.${theirs}`] })
      const names = [
        ...layerNames('patch_embedding', ['vit.embeddings.patch_embeddings.projection'], withBias),
        embedding('class_token', 'cls_token'),
        embedding('position_embedding', 'position_embeddings'),
      ]
      for (let i = 0; i < layers; ++i) {
        const [ours, theirs] = [`blocks.${i}`, `vit.encoder.layer.${i}`]
        const qkv = ['query', 'key', 'value'].map((name) => `${theirs}.attention.attention.${name}`)
        names.push(
          ...layerNames(`${ours}.norm1`, [`${theirs}.layernorm_before`], withBias),
          ...layerNames(`${ours}.attention.qkv`, qkv, { bias: qkvBias, rows: [width, width, width] }),
          ...layerNames(`${ours}.attention.out`, [`${theirs}.attention.output.dense`], withBias),
          ...layerNames(`${ours}.norm2`, [`${theirs}.layernorm_after`], withBias),
          ...layerNames(`${ours}.mlp.up`, [`${theirs}.intermediate.dense`], withBias),
          ...layerNames(`${ours}.mlp.down`, [`${theirs}.output.dense`], withBias),
        )
      }
      return [...names, ...layerNames('norm', ['vit.layernorm'], withBias), ...layerNames('head', ['classifier'], withBias)]
    }
    const names = [
      ...layerNames('patch_embedding', ['patch_embed.proj'], withBias),
      { ours: 'class_token', theirs: ['cls_token'] },
      { ours: 'position_embedding', theirs: ['pos_embed'] },
    ]
    for (let i = 0; i < layers; ++i) {
      const block = `blocks.${i}`
      const qkv = i < gpsaLayers ? ['qk', 'v'] : ['qkv']
      const rows = i < gpsaLayers ? [2 * width, width] : undefined
      names.push(
        ...layerNames(`${block}.norm1`, [`${block}.norm1`], withBias),
        ...layerNames(`${block}.attention.qkv`, qkv.map((name) => `${block}.attn.${name}`), { bias: qkvBias, rows }),
        ...layerNames(`${block}.attention.out`, [`${block}.attn.proj`], withBias),
        ...layerNames(`${block}.norm2`, [`${block}.norm2`], withBias),
        ...layerNames(`${block}.mlp.up`, [`${block}.mlp.fc1`], withBias),
        ...layerNames(`${block}.mlp.down`, [`${block}.mlp.fc2`], withBias),
      )
      if (i < gpsaLayers) {
        names.push(
          { ours: `${block}.attention.mixture`, theirs: [`${block}.attn.gating_param`] },
          { ours: `${block}.attention.position`, theirs: [`${block}.attn.pos_proj.weight`] },
        )
      }
    }
    return [...names, ...layerNames('norm', ['norm'], withBias), ...layerNames('head', ['head'], withBias)]
  }

  /** Fills the model from tensors under foreign names. @throws ERR_CHECKPOINT for what does not fit */
  loadForeign(tensors: Map<string, Tensor>, ignore: readonly RegExp[] = []): this {
    // A softmax does not see the same number added to all places.
    loadForeign(this, this.foreignNames(), tensors, [/\.pos_proj\.bias$/, ...ignore])
    return this
  }

  /** The parameters under foreign names; the copies belong to the caller. */
  toForeign(): Map<string, Tensor> {
    const found = saveForeign(this, this.foreignNames())
    for (let i = 0; i < this.config.gpsaLayers; ++i) {
      found.set(`blocks.${i}.attn.pos_proj.bias`, zeros([this.config.heads], { device: this.classToken.tensor.device }))
    }
    return found
  }
}

/** A config.json of a ViTForImageClassification as our configuration. @throws ERR_ARGUMENT for what is not implemented */
export function vitConfig(config: Readonly<Record<string, unknown>>): ViTConfig {
  const activation = ({ gelu: 'gelu_exact', gelu_new: 'gelu', relu: 'relu' } as const)[(config.hidden_act ?? 'gelu') as 'gelu']
  if (config.model_type !== 'vit' || !activation) {
    const key = activation ? 'model_type' : 'hidden_act'
    throw new LeanformerError('ERR_ARGUMENT', `ViT: ${key} is ${JSON.stringify(config[key])} in config.json, which is not supported`)
  }
  const number = (name: string) => config[name] as number
  return {
    image: number('image_size'),
    patch: number('patch_size'),
    channels: number('num_channels'),
    classes: config.id2label ? Object.keys(config.id2label).length : ((config.num_labels as number | undefined) ?? 2),
    layers: number('num_hidden_layers'),
    width: number('hidden_size'),
    heads: number('num_attention_heads'),
    hidden: number('intermediate_size'),
    normEps: number('layer_norm_eps'),
    qkvBias: (config.qkv_bias as boolean | undefined) ?? true,
    activation,
  }
}
