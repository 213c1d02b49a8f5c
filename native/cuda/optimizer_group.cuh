// What kernels over the parameters of an optimiser's group share (optimizers.cu, optimizer_rules.cu, layerwise_optimizers.cu,
// sharpness.cu): the addresses of its tensors go along with a launch (up to 480 parameters; more take another launch), which
// are cut into chunks of kGroupChunk numbers. A block owns a chunk, a thread packs of 16 bytes of it.
#pragma once
#include "cuda/rows.cuh"

namespace lf::cuda {

constexpr int kGroupThreads = 256, kMostStates = 3;
constexpr int64_t kGroupChunk = 4096;
// The driver copies a launch's arguments: under 4 KB for most models, at most 32 KB.
constexpr int kSmallGroup = 56, kLargeGroup = 480;

struct GroupTensors {
  void *parameter, *states[kMostStates], *copy;
  const void* grad;
  int64_t numel;
  int32_t first;  // chunk of the launch
  bool packed, copy_is_bf16, marked;
};
template <int kMost>
struct TensorGroup {
  int32_t count, chunks;
  GroupTensors of[kMost];
};
static_assert(sizeof(TensorGroup<kSmallGroup>) < 3800 && sizeof(TensorGroup<kLargeGroup>) < 32000);

// [multiplier, skip], f32 or f64; absent: 1 and 0.
struct Clip {
  const void* data;
  bool wide;
  __device__ __forceinline__ double at(int i) const {
    if (!data) return i ? 0 : 1;
    return wide ? static_cast<const double*>(data)[i] : static_cast<double>(static_cast<const float*>(data)[i]);
  }
};
inline Clip clip_of(const KernelArgs* args) {
  const TensorView& clip = args->inputs[0];
  return {clip.present() ? clip.data : nullptr, clip.dtype == DType::kF64};
}

// b to a whole power, by the same multiplications for any reader of the code: only products, so nothing can be fused.
__device__ __forceinline__ double whole_power(double b, int64_t n) {
  double power = 1;
  for (; n > 0; n >>= 1, b *= b) {
    if (n & 1) power *= b;
  }
  return power;
}

// Where the tensors of a group are, `count` in each list; grads and copies may be nullptr.
struct GroupViews {
  int64_t count;
  int num_states;
  const TensorView *parameters, *grads, *states, *copies;
};
inline GroupViews group_views(const KernelArgs* args, int num_states) {
  const int64_t count = args->integer(0);
  const TensorView *parameters = args->inputs + 1, *states = parameters + 2 * count;
  const bool copied = args->num_inputs - 1 == count * (3 + num_states);
  return {count, num_states, parameters, parameters + count, states, copied ? states + num_states * count : nullptr};
}

template <class A, int kMost, class F, class Prepare>
int32_t for_groups_of(const GroupViews& views, F&& body, Prepare&& prepare) {
  TensorGroup<kMost> group;
  group.count = group.chunks = 0;
  for (int64_t i = 0; i < views.count; ++i) {
    const TensorView& p = views.parameters[i];
    if (p.numel > 0 && (p.dtype == DType::kF64) == (sizeof(A) == 8)) {
      GroupTensors& t = group.of[group.count++];
      t = {};
      t.parameter = p.data;
      t.grad = views.grads ? views.grads[i].data : nullptr;
      for (int k = 0; k < views.num_states; ++k) t.states[k] = views.states[k * views.count + i].data;
      const TensorView* copy = views.copies ? views.copies + i : nullptr;
      if (copy && copy->present() && sizeof(A) == 4 && dtype_size(copy->dtype) == 2) {
        t.copy = copy->data;
        t.copy_is_bf16 = copy->dtype == DType::kBF16;
      }
      prepare(t, i);
      t.packed = aligned16(t.parameter) && aligned16(t.grad) && reinterpret_cast<uintptr_t>(t.copy) % 8 == 0;
      for (const void* state : t.states) t.packed = t.packed && aligned16(state);
      t.numel = p.numel;
      t.first = group.chunks;
      group.chunks += static_cast<int32_t>((p.numel + kGroupChunk - 1) / kGroupChunk);
    }
    if (group.count == 0 || (group.count < kMost && i + 1 < views.count)) continue;
    if (const int32_t code = body(group)) return code;
    group.count = group.chunks = 0;
  }
  return kOk;
}
// body(group) for the parameters of type A (float or double), in launches; prepare(tensors, i) may add to those of parameter i.
template <class A, class F, class Prepare>
int32_t for_groups(const GroupViews& views, F&& body, Prepare&& prepare) {
  if constexpr (sizeof(A) == 4) {
    if (views.count > kSmallGroup) return for_groups_of<A, kLargeGroup>(views, body, prepare);
  }
  return for_groups_of<A, kSmallGroup>(views, body, prepare);
}
template <class A, class F>
int32_t for_groups(const KernelArgs* args, int num_states, F&& body) {
  return for_groups<A>(group_views(args, num_states), body, [](GroupTensors&, int64_t) {});
}

// The tensor that owns a chunk; `of` has the number `first` of its first chunk.
template <class Group>
__device__ __forceinline__ int owner_of(const Group& group, int chunk) {
  int low = 0, high = group.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (group.of[middle].first <= chunk) low = middle;
    else high = middle;
  }
  return low;
}

template <class A, int V>
__device__ __forceinline__ Piece<A, V> read_piece(const void* tensor, int64_t at) {
  return load_piece<V>(static_cast<const A*>(tensor) + at);
}
template <class A, int V>
__device__ __forceinline__ void write_piece(void* tensor, int64_t at, const Piece<A, V>& piece) {
  store_piece<V>(static_cast<A*>(tensor) + at, piece);
}
// The 16-bit copy of numbers of a parameter, if it has one.
template <class A, int V>
__device__ __forceinline__ void write_copy(const GroupTensors& t, int64_t at, const Piece<A, V>& p) {
  if (!t.copy) return;
  Piece<uint16_t, V> bits;
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const auto x = static_cast<float>(p.at[k]);
    bits.at[k] = t.copy_is_bf16 ? __bfloat16_as_ushort(__float2bfloat16_rn(x)) : __half_as_ushort(__float2half_rn(x));
  }
  write_piece<uint16_t, V>(t.copy, at, bits);
}

// body(std::integral_constant V, at) for this thread's numbers of chunk `chunk` of a tensor: V from `at` on.
template <class A, class F>
__device__ __forceinline__ void for_pieces(const GroupTensors& t, int chunk, F&& body) {
  const int64_t begin = chunk * kGroupChunk, end = begin + kGroupChunk < t.numel ? begin + kGroupChunk : t.numel;
  int64_t at = begin;
  if (t.packed) {
    constexpr int V = Pack<A>::n;
    const int64_t whole = begin + (end - begin) / V * V;
#pragma unroll 1
    for (at += threadIdx.x * V; at < whole; at += kGroupThreads * V) body(std::integral_constant<int, V>(), at);
    at = whole;
  }
#pragma unroll 1
  for (at += threadIdx.x; at < end; at += kGroupThreads) body(std::integral_constant<int, 1>(), at);
}

// What is written back.
enum Written { kStatesOnly, kParameterOnly, kEverything };

// change(p, g, states) for every number of a chunk, read and written back as packs.
template <class A, int states, Written written, class F>
__device__ __forceinline__ void change_chunk(const GroupTensors& t, int chunk, F&& change) {
  for_pieces<A>(t, chunk, [&](auto pieces, int64_t at) {
    constexpr int V = decltype(pieces)::value;
    auto p = read_piece<A, V>(t.parameter, at);
    const auto g = read_piece<A, V>(t.grad, at);
    Piece<A, V> s[states + 1];
#pragma unroll
    for (int k = 0; k < states; ++k) s[k] = read_piece<A, V>(t.states[k], at);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      A own[states + 1];
#pragma unroll
      for (int k = 0; k < states; ++k) own[k] = s[k].at[i];
      change(p.at[i], g.at[i], own);
#pragma unroll
      for (int k = 0; k < states; ++k) s[k].at[i] = own[k];
    }
    if (written != kParameterOnly) {
#pragma unroll
      for (int k = 0; k < states; ++k) write_piece<A, V>(t.states[k], at, s[k]);
    }
    if (written == kStatesOnly) return;
    write_piece<A, V>(t.parameter, at, p);
    write_copy<A, V>(t, at, p);
  });
}

}  // namespace lf::cuda
