// BERT and DistilBERT under the names of the transformers library: BertForMaskedLM, BertForSequenceClassification and
// the two of DistilBERT. Which of them a model is follows from its heads and its token types.
import { LeanformerError } from '../native/errors'
import type { ModuleOptions } from '../nn/module'
import type { Tensor } from '../tensor/tensor'
import { Bert, type BertConfig } from './bert'
import { layerNames, loadForeign, saveForeign, type ForeignName } from './huggingface'

const withBias = { bias: true }

/** How our parameters are named there. */
export function bertNames(model: Bert): ForeignName[] {
  const { layers, width, tokenTypes } = model.config
  const distil = tokenTypes === 0
  const root = distil ? 'distilbert' : 'bert'
  const table = (ours: string, theirs: string): ForeignName => ({ ours: `${ours}.weight`, theirs: [`${root}.embeddings.${theirs}.weight`] })
  const names = [table('token_embedding', 'word_embeddings'), table('position_embedding', 'position_embeddings')]
  if (!distil) names.push(table('type_embedding', 'token_type_embeddings'))
  names.push(...layerNames('embedding_norm', [`${root}.embeddings.LayerNorm`], withBias))
  const parts = distil
    ? { layer: 'transformer.layer', qkv: ['attention.q_lin', 'attention.k_lin', 'attention.v_lin'], out: 'attention.out_lin', norm1: 'sa_layer_norm', up: 'ffn.lin1', down: 'ffn.lin2', norm2: 'output_layer_norm' }
    : { layer: 'encoder.layer', qkv: ['query', 'key', 'value'].map((name) => `attention.self.${name}`), out: 'attention.output.dense', norm1: 'attention.output.LayerNorm', up: 'intermediate.dense', down: 'output.dense', norm2: 'output.LayerNorm' }
  for (let i = 0; i < layers; ++i) {
    const [ours, theirs] = [`blocks.${i}`, `${root}.${parts.layer}.${i}`]
    names.push(
      ...layerNames(`${ours}.attention.qkv`, parts.qkv.map((name) => `${theirs}.${name}`), { bias: true, rows: [width, width, width] }),
      ...layerNames(`${ours}.attention.out`, [`${theirs}.${parts.out}`], withBias),
      ...layerNames(`${ours}.norm1`, [`${theirs}.${parts.norm1}`], withBias),
      ...layerNames(`${ours}.mlp.up`, [`${theirs}.${parts.up}`], withBias),
      ...layerNames(`${ours}.mlp.down`, [`${theirs}.${parts.down}`], withBias),
      ...layerNames(`${ours}.norm2`, [`${theirs}.${parts.norm2}`], withBias),
    )
  }
  if (model.headDense) {
    const [dense, norm, bias] = distil
      ? ['vocab_transform', 'vocab_layer_norm', 'vocab_projector.bias']
      : ['cls.predictions.transform.dense', 'cls.predictions.transform.LayerNorm', 'cls.predictions.bias']
    names.push(...layerNames('head_dense', [dense], withBias), ...layerNames('head_norm', [norm], withBias), { ours: 'head_bias', theirs: [bias] })
  }
  if (model.pooler) {
    names.push(...layerNames('pooler', [distil ? 'pre_classifier' : 'bert.pooler.dense'], withBias), ...layerNames('classifier', ['classifier'], withBias))
  }
  return names
}

/** The config.json of transformers for this model. */
export function bertForeignConfig({ config: c }: Bert): Record<string, unknown> {
  const activation = { gelu: 'gelu_new', gelu_exact: 'gelu', relu: 'relu' }[c.activation]
  const labels = c.classes ? { num_labels: c.classes } : {}
  if (c.tokenTypes === 0) {
    return {
      architectures: [c.classes ? 'DistilBertForSequenceClassification' : 'DistilBertForMaskedLM'],
      model_type: 'distilbert', vocab_size: c.vocab, max_position_embeddings: c.context, n_layers: c.layers, dim: c.width,
      n_heads: c.heads, hidden_dim: c.hidden, activation, dropout: c.dropout, attention_dropout: c.dropout, ...labels,
    }
  }
  return {
    architectures: [c.classes ? 'BertForSequenceClassification' : 'BertForMaskedLM'],
    model_type: 'bert', vocab_size: c.vocab, max_position_embeddings: c.context, num_hidden_layers: c.layers, hidden_size: c.width,
    num_attention_heads: c.heads, intermediate_size: c.hidden, type_vocab_size: c.tokenTypes, layer_norm_eps: c.normEps,
    hidden_act: activation, hidden_dropout_prob: c.dropout, attention_probs_dropout_prob: c.dropout, ...labels,
  }
}

/** A config.json of transformers as our configuration. @throws ERR_ARGUMENT for an option that is not implemented */
export function bertConfig(config: Readonly<Record<string, unknown>>): BertConfig {
  const refuse = (key: string) =>
    new LeanformerError('ERR_ARGUMENT', `Bert: ${key} is ${JSON.stringify(config[key])} in config.json, which is not supported`)
  const distil = config.model_type === 'distilbert'
  if (!distil && config.model_type !== 'bert') throw refuse('model_type')
  const key = distil ? 'activation' : 'hidden_act'
  const activation = ({ gelu: 'gelu_exact', gelu_new: 'gelu', relu: 'relu' } as const)[(config[key] ?? 'gelu') as 'gelu']
  if (!activation) throw refuse(key)
  if ((config.position_embedding_type ?? 'absolute') !== 'absolute') throw refuse('position_embedding_type')
  if (config.sinusoidal_pos_embds) throw refuse('sinusoidal_pos_embds')
  const number = (name: string) => config[name] as number
  const classifies = /ForSequenceClassification$/.test((config.architectures as string[] | undefined)?.[0] ?? '')
  const labels = config.id2label ? Object.keys(config.id2label).length : ((config.num_labels as number | undefined) ?? 2)
  return {
    vocab: number('vocab_size'),
    context: number('max_position_embeddings'),
    ...(distil
      ? { layers: number('n_layers'), width: number('dim'), heads: number('n_heads'), hidden: number('hidden_dim'), tokenTypes: 0, poolerActivation: 'relu' as const }
      : { layers: number('num_hidden_layers'), width: number('hidden_size'), heads: number('num_attention_heads'), hidden: number('intermediate_size'), tokenTypes: number('type_vocab_size'), normEps: config.layer_norm_eps as number }),
    activation,
    maskedLM: !classifies,
    classes: classifies ? labels : 0,
  }
}

/** The model of a config.json and its tensors. @throws ERR_CHECKPOINT for what does not fit, ERR_ARGUMENT for what we lack */
export function bertFromForeign(
  config: Readonly<Record<string, unknown>>,
  tensors: Map<string, Tensor>,
  options: ModuleOptions & { ignore?: readonly RegExp[] } = {},
): Bert {
  const model = new Bert(bertConfig(config), options)
  // Places are counted here; the output weight is the embedding, and its bias may be there twice.
  const own = [/\.position_ids$/, /^cls\.predictions\.decoder\.(weight|bias)$/, /^vocab_projector\.weight$/]
  loadForeign(model, bertNames(model), tensors, [...own, ...(options.ignore ?? [])])
  return model
}

/** The parameters under the names of transformers; the copies belong to the caller. */
export function bertToForeign(model: Bert): Map<string, Tensor> {
  return saveForeign(model, bertNames(model))
}
