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
export { Linear } from './nn/linear'
export { MLP } from './nn/mlp'
export { RMSNorm } from './nn/rms_norm'
export { TransformerBlock } from './nn/transformer_block'

export type { Initializer, InitializerOptions } from './init/initializer'
export { gpt2Normal, gpt2Residual } from './init/gpt2'
export { kaimingNormal, kaimingUniform } from './init/kaiming'
export { normal } from './init/normal'
export { orthogonal } from './init/orthogonal'
export { uniform } from './init/uniform'
export { xavierNormal, xavierUniform } from './init/xavier'

export { Optimizer, decayGroups, type ParameterGroup } from './optim/optimizer'
export { AdamW } from './optim/adamw'
export { SGD } from './optim/sgd'
export { Nesterov } from './optim/nesterov'
export * from './optim/schedule'

export type { Batch, StepContext, Technique, TrainingRun } from './techniques/technique'
export { GPT, type GPTConfig, type GPTInputs } from './models/gpt'
export { generate, type GenerateOptions } from './models/generate'

export * from './data/tokens'
export * from './data/packing'
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
export { readSafetensors, writeSafetensors, type HostTensor } from './train/safetensors'
