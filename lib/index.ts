// The public API. Everything here, and more, can also be imported from its own path, such as `leanformer/nn/linear`.
export { LeanformerError, errorCodes, type ErrorCode, type NativeErrorCode } from './native/errors'
export { dtypes, type DType } from './native/dtype'

export { getDevice, listDevices, liveHandles, cudaAbsence, Device, type OpProfile } from './tensor/device'
export { tensor, Tensor, setRequiresGrad, type NestedNumbers, type TensorOptions } from './tensor/tensor'
export { scope, keep } from './tensor/scope'
export { seed, defaultGenerator, Generator, type RandomState } from './tensor/random'

export { noGrad } from './autograd/tape'
export { backward } from './autograd/backward'
export { checkpoint } from './autograd/checkpoint'

export * from './ops/accumulate'
export * from './ops/alibi'
export * from './ops/attention'
export * from './ops/block_sparse_attention'
export { broadcastTo, expand } from './ops/broadcast'
export * from './ops/cast'
export * from './ops/clip'
export * from './ops/concat'
export * from './ops/conv'
export { copy } from './ops/copy'
export * from './ops/creation'
export * from './ops/cross_entropy'
export * from './ops/dropout'
export * from './ops/elementwise'
export * from './ops/embedding'
export * from './ops/gather'
export * from './ops/layer_norm'
export * from './ops/linear'
export * from './ops/linear_cross_entropy'
export { matmul, type Activation, type MatmulOptions } from './ops/matmul'
export * from './ops/random'
export * from './ops/reductions'
export * from './ops/reshape'
export * from './ops/rms_norm'
export * from './ops/rotary'
export * from './ops/slice'
export * from './ops/permute'
export * from './ops/softmax'
export * from './ops/sort'
export * from './ops/swiglu'
export * from './ops/where'

export { Module, type ModuleOptions } from './nn/module'
export { Parameter } from './nn/parameter'
export { Attention, type AttentionInputs } from './nn/attention'
export { Dropout } from './nn/dropout'
export { Embedding } from './nn/embedding'
export { Conv1d, Conv2d } from './nn/conv'
export { KeyValueCache } from './nn/key_value_cache'
export { LayerNorm } from './nn/layer_norm'
export { PositionalAttention } from './nn/positional_attention'
export { Linear } from './nn/linear'
export { MLP } from './nn/mlp'
export { RMSNorm } from './nn/rms_norm'
export { TransformerBlock } from './nn/transformer_block'

export type { Initializer, InitializerOptions } from './init/initializer'
export type { ModelInitializer, ParameterTree } from './init/model_initializer'
export { convit, identity, truncatedNormal } from './init/convit'
export { coordinateCheck, spread, type CheckedModel } from './init/coordinate_check'
export { fixup, fixupScale } from './init/fixup'
export { gpt2, gpt2Normal, gpt2Residual } from './init/gpt2'
export { kaimingNormal, kaimingUniform } from './init/kaiming'
export { mup, mupScales, type MupShape } from './init/mup'
export { normal } from './init/normal'
export { orthogonal } from './init/orthogonal'
export { skipInit } from './init/skip_init'
export { smallInit } from './init/small_init'
export { tFixup, tFixupScale } from './init/t_fixup'
export { uniform } from './init/uniform'
export { xavierModel, xavierNormal, xavierUniform } from './init/xavier'

export { Optimizer, decayGroups, type ParameterGroup } from './optim/optimizer'
export { AdamW } from './optim/adamw'
export { SGD } from './optim/sgd'
export { Nesterov } from './optim/nesterov'
export * from './optim/schedule'

export { favorKernel, randomDirections, softmaxFeatures } from './attention/favor'
export { blockSparseKernel, softmaxKernel, windowKernel, type AttentionKernel } from './attention/kernels'
export { featureAttention } from './attention/prefix'
export * as patterns from './attention/patterns'

export {
  copyTeacher,
  cosineDistance,
  distillation,
  distillationLoss,
  divergence,
  selectLayers,
  type DistillationWeights,
} from './techniques/distil'
export { gateScores, layerScores, pruneMagnitude, shrink } from './techniques/prune'
export { quantise, roundActivations, smoothingFactors, type QuantiseOptions } from './techniques/quantise'
export { loadCompressed, saveCompressed } from './train/compressed'
export { addAdapters } from './techniques/adapters'
export { tuneBiases } from './techniques/bitfit'
export { addIA3, mergeIA3, unmergeIA3 } from './techniques/ia3'
export { addLoRA, loraLayers, mergeLoRA, packNF4, unmergeLoRA, type LoRAOptions } from './techniques/lora'
export { addPrefix } from './techniques/prefix_tuning'
export { addPrompt } from './techniques/prompt_tuning'
export { trainOnly, trainedCount } from './techniques/train_only'
export { loadPeft, savePeft, type SavePeftOptions } from './train/peft'
export type { Batch, StepContext, Technique, TrainingRun } from './techniques/technique'
export { GPT, type GPTConfig, type GPTInputs } from './models/gpt'
export { Llama, llamaConfig, tinyLlama, type LlamaConfig } from './models/llama'
export { Bert, type BertConfig, type BertInputs } from './models/bert'
export { bertConfig, bertForeignConfig, bertFromForeign, bertToForeign } from './models/bert_names'
export { ViT, vitConfig, type ViTConfig } from './models/vit'
export { EncoderDecoder, bartConfig, type EncoderDecoderConfig } from './models/encoder_decoder'
export { generate, type GenerateOptions } from './models/generate'
export { growDepth, growWidth, widenState, type DepthGrowth } from './techniques/grow'
export { keepLayers, layersKept } from './techniques/layer_drop'
export { freezeLayers } from './techniques/freeze_layers'
export { cutBatch, warmupLength } from './techniques/sequence_warmup'

export * from './data/tokens'
export * from './data/packing'
export { MaskedTokens, type MaskedTokensOptions } from './data/masked_tokens'
export { readText } from './data/text'
export { createTokenizer, tokenizerFromJSON, type Tokenizer } from './data/tokenizer'
export { Permutation } from './data/permutation'

export {
  Trainer,
  type BatchSource,
  type Checkpoint,
  type EvaluationSource,
  type LanguageModel,
  type StepMetrics,
  type TrainerOptions,
} from './train/trainer'
export { LossScaler } from './train/loss_scaler'
export { saveCheckpoint, loadCheckpoint } from './train/checkpoint_file'
export { readPretrained, writePretrained, type Pretrained } from './train/pretrained'
export { readSafetensors, writeSafetensors, type HostTensor } from './train/safetensors'
