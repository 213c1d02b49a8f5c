// LLaMA: a decoder with RMS norm before each branch, rotary positions, SwiGLU, grouped queries, no biases, a head of its
// own. It is our GPT with these choices, under the names of the transformers library. TinyLlama is a configuration of
// it, 1.1 billion parameters trained from scratch on 3 T tokens: neither distilled nor pruned.
// Source: Touvron et al., arXiv 2302.13971 and 2307.09288; TinyLlama: Zhang et al., arXiv 2401.02385.
import { LeanformerError } from '../native/errors'
import type { ModuleOptions } from '../nn/module'
import type { Tensor } from '../tensor/tensor'
import { GPT } from './gpt'
import { layerNames, loadForeign, saveForeign, type ForeignName } from './huggingface'
import { defineModel } from './model_entry'

export interface LlamaConfig {
  vocab: number
  /** Longest sequence, in tokens. */
  context: number
  layers: number
  width: number
  heads: number
  /** Key and value heads; default: heads. */
  kvHeads?: number
  /** Width of the gated feed-forward layer; default 8/3 of the width, up to the next multiple of 32. */
  hidden?: number
  normEps?: number
  rotaryBase?: number
  tiedHead?: boolean
  dropout?: number
  checkpointing?: boolean
}

/** TinyLlama 1.1B. */
export const tinyLlama: Readonly<LlamaConfig> = {
  vocab: 32000, context: 2048, layers: 22, width: 2048, heads: 32, kvHeads: 4, hidden: 5632, normEps: 1e-5,
}

export class Llama extends GPT {
  constructor(config: LlamaConfig, options: ModuleOptions = {}) {
    const given = Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined)) as unknown as LlamaConfig
    const hidden = Math.ceil((8 * config.width) / 3 / 32) * 32
    super({ hidden, tiedHead: false, ...given, norm: 'rms_norm', activation: 'swiglu', positions: 'rotary', bias: false }, options)
  }

  /** How our parameters are named in a LlamaForCausalLM of transformers. */
  foreignNames(): ForeignName[] {
    const { layers, width, heads, kvHeads, hidden, tiedHead } = this.config
    const kv = (width / heads) * kvHeads
    const plain = { bias: false }
    const names: ForeignName[] = [{ ours: 'token_embedding.weight', theirs: ['model.embed_tokens.weight'] }]
    for (let i = 0; i < layers; ++i) {
      const [ours, theirs] = [`blocks.${i}`, `model.layers.${i}`]
      const qkv = ['q_proj', 'k_proj', 'v_proj'].map((name) => `${theirs}.self_attn.${name}`)
      names.push(
        ...layerNames(`${ours}.norm1`, [`${theirs}.input_layernorm`], plain),
        ...layerNames(`${ours}.attention.qkv`, qkv, { bias: false, rows: [width, kv, kv] }),
        ...layerNames(`${ours}.attention.out`, [`${theirs}.self_attn.o_proj`], plain),
        ...layerNames(`${ours}.norm2`, [`${theirs}.post_attention_layernorm`], plain),
        ...layerNames(`${ours}.mlp.up`, [`${theirs}.mlp.gate_proj`, `${theirs}.mlp.up_proj`], { bias: false, rows: [hidden, hidden] }),
        ...layerNames(`${ours}.mlp.down`, [`${theirs}.mlp.down_proj`], plain),
      )
    }
    names.push(...layerNames('norm', ['model.norm'], plain))
    if (!tiedHead) names.push(...layerNames('head', ['lm_head'], plain))
    return names
  }

  /** The config.json of transformers for this model. */
  foreignConfig(): Record<string, unknown> {
    const c = this.config
    return {
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      vocab_size: c.vocab,
      max_position_embeddings: c.context,
      num_hidden_layers: c.layers,
      hidden_size: c.width,
      num_attention_heads: c.heads,
      num_key_value_heads: c.kvHeads,
      intermediate_size: c.hidden,
      rms_norm_eps: c.normEps,
      rope_theta: c.rotaryBase,
      tie_word_embeddings: c.tiedHead,
      hidden_act: 'silu',
      attention_bias: false,
      mlp_bias: false,
    }
  }

  /** The model of a config.json and its tensors. @throws ERR_CHECKPOINT for what does not fit, ERR_ARGUMENT for what we lack */
  static fromForeign(
    config: Readonly<Record<string, unknown>>,
    tensors: Map<string, Tensor>,
    options: ModuleOptions & { ignore?: readonly RegExp[] } = {},
  ): Llama {
    const model = new Llama(llamaConfig(config), options)
    // Older files hold the rotary frequencies, which are computed here; a tied head may be there a second time.
    const ignore = [/\.rotary_emb\.inv_freq$/, ...(model.config.tiedHead ? [/^lm_head\.weight$/] : []), ...(options.ignore ?? [])]
    loadForeign(model, model.foreignNames(), tensors, ignore)
    return model
  }

  /** The parameters under the names of transformers; the copies belong to the caller. */
  toForeign(): Map<string, Tensor> {
    return saveForeign(this, this.foreignNames())
  }
}

/** A config.json of transformers as our configuration. @throws ERR_ARGUMENT for an option that is not implemented */
export function llamaConfig(config: Readonly<Record<string, unknown>>): LlamaConfig {
  const refuse = (key: string) =>
    new LeanformerError('ERR_ARGUMENT', `Llama: ${key} is ${JSON.stringify(config[key])} in config.json, which is not supported`)
  const rope = (config.rope_parameters ?? config.rope_scaling ?? {}) as Record<string, unknown>
  if ((rope.rope_type ?? rope.type ?? 'default') !== 'default') throw refuse(config.rope_parameters ? 'rope_parameters' : 'rope_scaling')
  for (const key of ['attention_bias', 'mlp_bias']) if (config[key]) throw refuse(key)
  if ((config.hidden_act ?? 'silu') !== 'silu') throw refuse('hidden_act')
  const width = config.hidden_size as number
  const heads = config.num_attention_heads as number
  if (config.head_dim != null && config.head_dim !== width / heads) throw refuse('head_dim')
  return {
    vocab: config.vocab_size as number,
    context: config.max_position_embeddings as number,
    layers: config.num_hidden_layers as number,
    width,
    heads,
    kvHeads: (config.num_key_value_heads as number | undefined) ?? heads,
    hidden: config.intermediate_size as number,
    normEps: (config.rms_norm_eps as number | undefined) ?? 1e-6,
    rotaryBase: ((rope.rope_theta ?? config.rope_theta) as number | undefined) ?? 10000,
    tiedHead: (config.tie_word_embeddings as boolean | undefined) ?? false,
  }
}

export const llama = defineModel({
  name: 'llama',
  title: 'LLaMA: RMS norm, rotary positions, SwiGLU, no biases',
  source: 'Touvron et al., arXiv 2302.13971',
  objective: 'next_token',
  fixed: { norm: 'rms_norm', activation: 'swiglu', positions: 'rotary', bias: false },
  create: (shape, options) => {
    const { vocab, context, layers, width, heads, kvHeads, tiedHead, dropout } = shape
    return new Llama({ vocab, context, layers, width, heads, kvHeads, tiedHead, dropout }, options)
  },
})
