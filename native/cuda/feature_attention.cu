// feature_attention and feature_attention_backward: which kernels a call takes, and their room.
#include "cuda/feature_attention_plain.cuh"

namespace lf::cuda {
namespace {

// bf16 and TF32 came with sm_80. Narrow f32 would be padding for the most part, and three TF32 products are a little less exact
// than short f32 sums.
template <class T>
bool on_tensor_cores(const KernelArgs* args, const Features<T>& p) {
  if (sizeof(T) == 8 || stream_of(args).capability < 80) return false;
  return sizeof(T) == 2 || (p.features >= 32 && p.width >= 32);
}

// Numbers of the state of every chunk of keys, or of one a head, with room for the rows of either kind of kernels.
int64_t states_of(const KernelArgs* args, int at, bool sums) {
  const TensorView &q = args->inputs[at], &k = args->inputs[at + 1], &v = args->inputs[at + 2];
  const int64_t tile = q.dtype == DType::kF64 ? kFeatureChunk<double> : kFeatureChunk<float>;
  const int64_t count = k.shape[0] * k.shape[2] * (args->flag(0) ? up(k.shape[1], tile) : 1);
  return up(count * q.shape[3] * (sums ? up(v.shape[3], 8) * 8 : 1), 4) * 4;
}

// And what segments of them add, in f32.
int64_t segments_of(const KernelArgs* args, int at, bool backward) {
  const TensorView &q = args->inputs[at], &k = args->inputs[at + 1], &v = args->inputs[at + 2];
  if (q.dtype == DType::kF64) return 0;
  const auto of = [&](int64_t tokens) {
    const int64_t chunks = up(args->flag(0) ? k.shape[1] : tokens, kFeatureChunk<float>);
    return segment_floats(feature_segments(k.shape[0] * k.shape[2], q.shape[3], v.shape[3], args->flag(0) ? chunks - 1 : chunks));
  };
  const int64_t keys = of(k.shape[1]), queries = backward ? of(q.shape[1]) : 0;
  return keys > queries ? keys : queries;
}

template <class T>
Features<T> problem(const KernelArgs* args, int at, int shifts, bool backward) {
  const TensorView &q = args->inputs[at], &k = args->inputs[at + 1], &v = args->inputs[at + 2];
  const TensorView &q_shift = args->inputs[shifts], &k_shift = args->inputs[shifts + 1];
  Features<T> p{};
  p.q = q.as<const T>();
  p.k = k.as<const T>();
  p.v = v.as<const T>();
  p.q_shift = q_shift.present() ? q_shift.as<const T>() : nullptr;
  p.k_shift = k_shift.present() ? k_shift.as<const T>() : nullptr;
  p.states = args->workspace;
  p.totals = static_cast<Acc<T>*>(args->workspace) + states_of(args, at, true);
  if constexpr (sizeof(T) < 8) p.segment_sums = p.totals + states_of(args, at, false);
  p.factors = p.totals + states_of(args, at, false) + segments_of(args, at, backward);
  p.deltas = p.factors + q.shape[0] * q.shape[1] * q.shape[2];
  p.batch = static_cast<int>(q.shape[0]);
  p.queries = static_cast<int>(q.shape[1]);
  p.keys = static_cast<int>(k.shape[1]);
  p.heads = static_cast<int>(q.shape[2]);
  p.kv_heads = static_cast<int>(k.shape[2]);
  p.features = static_cast<int>(q.shape[3]);
  p.width = static_cast<int>(v.shape[3]);
  p.group = p.heads / p.kv_heads;
  p.causal = args->flag(0);
  p.map = static_cast<int>(args->integer(1));
  p.eps = static_cast<Acc<T>>(args->number(2));
  p.chunks = static_cast<int>(up(p.keys, kFeatureChunk<T>));
  p.offset = p.keys - p.queries;
  p.feature_packs = rows_in_packs<T>(p.features, {p.q, p.k});
  p.width_packs = rows_in_packs<T>(p.width, {p.v});
  return p;
}

int32_t feature_attention(const KernelArgs* args) {
  return dispatch_floating(args->inputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Features<T> p = problem<T>(args, 0, 3, false);
    p.result = args->outputs[0].as<T>();
    p.norm_out = args->outputs[1].as<Acc<T>>();
    p.width_packs = p.width_packs && aligned16(p.result);
    if constexpr (sizeof(T) < 8) {
      if (on_tensor_cores(args, p)) return features_on_tensor_cores(args, p);
    }
    return features_plain(args, p);
  });
}

int64_t forward_workspace(const KernelArgs* args) {
  const int64_t size = args->inputs[0].dtype == DType::kF64 ? 8 : 4;
  return size * (states_of(args, 0, true) + states_of(args, 0, false) + segments_of(args, 0, false));
}

int32_t feature_attention_backward(const KernelArgs* args) {
  return dispatch_floating(args->inputs[1].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Features<T> p = problem<T>(args, 1, 6, true);
    p.grad_out = args->inputs[0].as<const T>();
    p.out = args->inputs[4].as<const T>();
    p.norm = args->inputs[5].as<const Acc<T>>();
    p.grad_q = args->outputs[0].as<T>();
    p.grad_k = args->outputs[1].as<T>();
    p.grad_v = args->outputs[2].as<T>();
    p.feature_packs = p.feature_packs && aligned16(p.grad_q) && aligned16(p.grad_k);
    p.width_packs = p.width_packs && aligned16(p.grad_out) && aligned16(p.out) && aligned16(p.grad_v);
    if (const int64_t rows = int64_t{p.batch} * p.queries * p.heads) {
      feature_factors<T><<<blocks_for(args, rows, 8), 256, 0, stream_of(args).stream>>>(p);
      if (const int32_t code = launched(args)) return code;
    }
    if constexpr (sizeof(T) < 8) {
      if (on_tensor_cores(args, p)) return features_backward_on_tensor_cores(args, p);
    }
    return features_backward_plain(args, p);
  });
}

int64_t backward_workspace(const KernelArgs* args) {
  const int64_t size = args->inputs[1].dtype == DType::kF64 ? 8 : 4;
  return size * (states_of(args, 1, true) + states_of(args, 1, false) + segments_of(args, 1, true) + 2 * args->inputs[5].numel);
}

}  // namespace

LF_CUDA_KERNEL(feature_attention, feature_attention)
LF_CUDA_WORKSPACE(feature_attention, forward_workspace)
LF_CUDA_KERNEL(feature_attention_backward, feature_attention_backward)
LF_CUDA_WORKSPACE(feature_attention_backward, backward_workspace)

}  // namespace lf::cuda
