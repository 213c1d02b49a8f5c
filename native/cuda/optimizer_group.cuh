// What the kernels of native/ops/optimizer_rules.cpp and layerwise_optimizers.cpp share: the tensors of a group, whose
// addresses go along with a launch (up to 256 parameters; more take another launch), cut into chunks of kGroupChunk numbers.
// A block owns a chunk, a thread packs of 16 bytes of it.
#pragma once
#include "cuda/pointwise.cuh"

namespace lf::cuda {

constexpr int kGroupThreads = 256, kGroupMost = 256, kMostStates = 3;
constexpr int64_t kGroupChunk = 4096;

struct GroupTensors {
  void *parameter, *states[kMostStates], *copy;
  const void* grad;
  int64_t numel;
  int32_t first;  // chunk of the launch
  int16_t packed, copy_is_bf16;
};
struct TensorGroup {
  int32_t count, chunks;
  GroupTensors of[kGroupMost];
};
static_assert(sizeof(TensorGroup) < 32000, "the arguments of a launch");

// [multiplier, skip], f32 or f64; absent: 1 and 0.
struct Clip {
  const void* data;
  bool wide;
  __device__ double at(int i) const {
    if (!data) return i ? 0 : 1;
    return wide ? static_cast<const double*>(data)[i] : static_cast<double>(static_cast<const float*>(data)[i]);
  }
};
inline Clip clip_of(const KernelArgs* args) {
  const TensorView& clip = args->inputs[0];
  return {clip.present() ? clip.data : nullptr, clip.dtype == DType::kF64};
}

// body(group, first parameter) for the parameters of type A (float or double), in launches.
template <class A, class F>
int32_t for_groups(const KernelArgs* args, int num_states, F&& body) {
  const int64_t count = args->integer(0);
  const TensorView *parameters = args->inputs + 1, *grads = parameters + count, *states = grads + count;
  const TensorView* copies = args->num_inputs - 1 == count * (3 + num_states) ? states + num_states * count : nullptr;
  TensorGroup group;
  group.count = group.chunks = 0;
  for (int64_t i = 0; i < count; ++i) {
    const TensorView& p = parameters[i];
    if (p.numel > 0 && (p.dtype == DType::kF64) == (sizeof(A) == 8)) {
      GroupTensors& t = group.of[group.count++];
      t = {};
      t.parameter = p.data;
      t.grad = grads[i].data;
      bool packed = aligned16(p.data) && aligned16(t.grad);
      for (int k = 0; k < num_states; ++k) {
        t.states[k] = states[k * count + i].data;
        packed = packed && aligned16(t.states[k]);
      }
      if (copies && copies[i].present() && sizeof(A) == 4 && dtype_size(copies[i].dtype) == 2) {
        t.copy = copies[i].data;
        t.copy_is_bf16 = copies[i].dtype == DType::kBF16;
        packed = packed && reinterpret_cast<uintptr_t>(t.copy) % 8 == 0;
      }
      t.packed = packed;
      t.numel = p.numel;
      t.first = group.chunks;
      group.chunks += static_cast<int32_t>((p.numel + kGroupChunk - 1) / kGroupChunk);
    }
    if (group.count == 0 || (group.count < kGroupMost && i + 1 < count)) continue;
    if (const int32_t code = body(group)) return code;
    group.count = group.chunks = 0;
  }
  return kOk;
}

// The tensor that owns a chunk.
__device__ __forceinline__ int owner_of(const TensorGroup& group, int chunk) {
  int low = 0, high = group.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (group.of[middle].first <= chunk) low = middle;
    else high = middle;
  }
  return low;
}

// What is written back.
enum Written { kStatesOnly, kParameterOnly, kEverything };

// change(p, g, states) for this thread's numbers of a chunk, read and written back as packs.
template <class A, int count, int states, Written written, class F>
__device__ __forceinline__ void change_items(const GroupTensors& t, int64_t at, F&& change) {
  using I = Items<A, count>;
  const auto read = [&](const void* from) { return *reinterpret_cast<const I*>(static_cast<const A*>(from) + at); };
  const auto put = [&](void* to, const I& items) { *reinterpret_cast<I*>(static_cast<A*>(to) + at) = items; };
  I p = read(t.parameter), s[states + 1];
  const I g = read(t.grad);
#pragma unroll
  for (int k = 0; k < states; ++k) s[k] = read(t.states[k]);
#pragma unroll
  for (int i = 0; i < count; ++i) {
    A own[states + 1];
#pragma unroll
    for (int k = 0; k < states; ++k) own[k] = s[k].at[i];
    change(p.at[i], g.at[i], own);
#pragma unroll
    for (int k = 0; k < states; ++k) s[k].at[i] = own[k];
  }
  if (written != kParameterOnly) {
#pragma unroll
    for (int k = 0; k < states; ++k) put(t.states[k], s[k]);
  }
  if (written == kStatesOnly) return;
  put(t.parameter, p);
  if (!t.copy) return;
  Items<uint16_t, count> bits;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const auto x = static_cast<float>(p.at[i]);
    bits.at[i] = t.copy_is_bf16 ? __bfloat16_as_ushort(__float2bfloat16_rn(x)) : __half_as_ushort(__float2half_rn(x));
  }
  *reinterpret_cast<Items<uint16_t, count>*>(static_cast<uint16_t*>(t.copy) + at) = bits;
}

template <class A, int states, Written written, class F>
__device__ __forceinline__ void change_chunk(const GroupTensors& t, int64_t begin, F&& change) {
  const int64_t end = begin + kGroupChunk < t.numel ? begin + kGroupChunk : t.numel;
  int64_t at = begin;
  if (t.packed) {
    constexpr int n = Pack<A>::n;
    const int64_t whole = begin + (end - begin) / n * n;
#pragma unroll 1
    for (at += threadIdx.x * n; at < whole; at += kGroupThreads * n) change_items<A, n, states, written>(t, at, change);
    at = whole;
  }
#pragma unroll 1
  for (at += threadIdx.x; at < end; at += kGroupThreads) change_items<A, 1, states, written>(t, at, change);
}

}  // namespace lf::cuda
