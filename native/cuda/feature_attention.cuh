// What the kernels of feature_attention share: the problem in numbers and pointers, and what comes before the gradients.
// feature_factors: a warp a row, bound by bytes. Warps an SM: feature_factors 48.
#pragma once
#include "cuda/rows.cuh"

namespace lf::cuda {

enum Map { kNone, kElu, kExp };

// Tokens of a chunk.
template <class T>
constexpr int kFeatureChunk = sizeof(T) == 8 ? 32 : 64;

template <class T>
struct Features {
  using A = Acc<T>;
  const T *q, *k, *v, *q_shift, *k_shift, *grad_out, *out;
  T *result, *grad_q, *grad_k, *grad_v;
  const A* norm;
  A *norm_out, *totals, *factors, *deltas;  // 1 / norm and -(grad_out . out) of every query: [batch, heads, queries]
  void* states;
  float* segment_sums;
  int batch, queries, keys, heads, kv_heads, features, width, map, group, chunks, offset;
  bool causal, feature_packs, width_packs;
  A eps;

  __device__ __forceinline__ static A exponential(A x) {
    if constexpr (sizeof(T) == 2) return __expf(x);
    else return exp(x);
  }
  __device__ __forceinline__ A phi(A x) const { return phi(map, x); }
  __device__ __forceinline__ A phi(int kind, A x) const {
    if (kind == kElu) return x > 0 ? x + 1 : exponential(x);
    return kind == kExp ? exponential(x) + eps : x;
  }
  __device__ __forceinline__ A derivative(A x) const {
    if (map == kElu) return x > 0 ? A{1} : exponential(x);
    return map == kExp ? exponential(x) : A{1};
  }
  // Of query 0, in factors and deltas.
  __device__ __forceinline__ int64_t first_factor(int b, int head) const { return (int64_t{b} * heads + head) * queries; }
};

// 1 / norm and -(grad_out . out) of every row of q; both 0 where no key is seen.
template <class T>
__global__ void __launch_bounds__(256) feature_factors(Features<T> p) {
  using A = Acc<T>;
  const int64_t rows = int64_t{p.batch} * p.queries * p.heads;
  for (int64_t row = blockIdx.x * int64_t{8} + threadIdx.x / 32; row < rows; row += int64_t{gridDim.x} * 8) {
    const T *grad = p.grad_out + row * p.width, *out = p.out + row * p.width;
    A sum{};
    if (sizeof(T) < 8 && p.width_packs) {
      for (int c = threadIdx.x % 32 * Pack<T>::n; c < p.width; c += 32 * Pack<T>::n) {
        const Pack<T> g = load_pack(grad + c), o = load_pack(out + c);
#pragma unroll
        for (int k = 0; k < Pack<T>::n; ++k) sum += widen(g.at[k]) * widen(o.at[k]);
      }
    } else {
      for (int c = threadIdx.x % 32; c < p.width; c += 32) sum += widen(grad[c]) * widen(out[c]);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) {
      const A norm = p.norm[row];
      const int64_t token = row / p.heads, at = p.first_factor(static_cast<int>(token / p.queries), static_cast<int>(row % p.heads)) + token % p.queries;
      p.factors[at] = norm != 0 ? 1 / norm : A{};
      p.deltas[at] = norm != 0 ? -sum : A{};
    }
  }
}

inline int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

// How tensor-core kernels walk along the chunks for states: in segments, side by side, where heads and tiles are few. By shapes
// alone, as their sums need room.
constexpr int kSegmentPacks = 9;  // of four sums, a thread
struct FeatureSegments {
  int blocks, count, steps, all_steps;  // blocks of a segment; steps of one segment and of all
};
inline FeatureSegments feature_segments(int64_t heads, int64_t features, int64_t width, int64_t steps) {
  const int64_t blocks = heads * up(features, 64) * (width ? up(width, 64) : 1), most = steps / 4 < 16 ? steps / 4 : 16;
  int64_t count = blocks ? 256 / blocks : 1;
  if (count > most) count = most;
  if (count < 1) count = 1;
  const int64_t of_segment = up(steps, count);
  return {static_cast<int>(blocks), static_cast<int>(steps > 0 ? up(steps, of_segment) : 1), static_cast<int>(of_segment), static_cast<int>(steps)};
}
inline int64_t segment_floats(const FeatureSegments& segments) { return segments.count > 1 ? int64_t{segments.count} * segments.blocks * kSegmentPacks * 128 * 4 : 0; }

// The first chunk of queries, below 0 where some stand before the first key, and the number of chunks.
template <class T>
int first_chunk(const Features<T>& p, int64_t* count) {
  constexpr int kSide = kFeatureChunk<T>;
  const int first = p.causal ? (p.offset < 0 ? -static_cast<int>(up(-p.offset, kSide)) : p.offset / kSide) : 0;
  *count = p.queries ? (p.causal ? p.chunks - first : up(p.queries, kSide)) : 0;
  return first;
}

// In feature_attention_mma.cu, for float, __half and __nv_bfloat16. The problem is complete, its factors come with the call.
template <class T>
int32_t features_on_tensor_cores(const KernelArgs* args, const Features<T>& p);
template <class T>
int32_t features_backward_on_tensor_cores(const KernelArgs* args, const Features<T>& p);

}  // namespace lf::cuda
