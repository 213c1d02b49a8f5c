// What softmax.cu and linear_cross_entropy.cu share: how rows are spread over threads, and log sum exp.
//   up to 1024 numbers   a warp owns a row, 32 numbers a lane in registers, four rows a block, no barriers
//   up to 16384 numbers  a block owns a row, 16 numbers a thread in registers
//   wider                a block of 512 owns a row and reads it twice, the second time from a cache
// f64, which is for checks, always goes the last way.
#pragma once
#include "cuda/rows.cuh"

namespace lf::cuda {

constexpr int kWarpItems = 32, kBlockItems = 16, kWideThreads = 512;

template <bool kWarp>
constexpr int kItemsOf = kWarp ? kWarpItems : kBlockItems;

enum class RowsBy { kWarp, kBlock, kWide };
template <class T>
RowsBy rows_by(int64_t n) {
  if (sizeof(T) == 8 || n > 1024 * kBlockItems) return RowsBy::kWide;
  return n <= 32 * kWarpItems ? RowsBy::kWarp : RowsBy::kBlock;
}
inline dim3 row_block(RowsBy by, int64_t n) {
  if (by == RowsBy::kWarp) return dim3(32, 4);
  if (by == RowsBy::kWide) return dim3(kWideThreads);
  return dim3(static_cast<unsigned>((n + 32 * kBlockItems - 1) / (32 * kBlockItems) * 32));
}
inline unsigned row_grid(RowsBy by, int64_t rows) {
  return static_cast<unsigned>(by == RowsBy::kWarp ? (rows + 3) / 4 : rows);
}
template <bool kWarp>
__device__ __forceinline__ int64_t row_of_group() {
  return kWarp ? int64_t{blockIdx.x} * 4 + threadIdx.y : int64_t{blockIdx.x};
}
template <bool kWarp>
constexpr int kMostThreads = kWarp ? 128 : 1024;

template <bool kWarp, class A>
__device__ __forceinline__ A group_sum(A x, A* shared) {
  if constexpr (kWarp) return warp_sum(x);
  else return block_sum(x, shared);
}
template <bool kWarp, class A>
__device__ __forceinline__ A group_max(A x, A* shared) {
  if constexpr (kWarp) return warp_max(x);
  else return block_max(x, shared);
}

template <class A>
__device__ __forceinline__ A lowest() {
  return -static_cast<A>(INFINITY);
}
template <class A>
__device__ __forceinline__ A larger(A a, A b) {  // NaN wins
  return b > a || b != b ? b : a;
}
// A row of -inf alone counts from 0.
template <class A>
__device__ __forceinline__ A finite_highest(A highest) {
  return highest == lowest<A>() ? A(0) : highest;
}

template <class A>
struct RowSums {
  A highest, sum;  // sum of exp(x - highest)
  __device__ __forceinline__ A log_sum() const { return highest + log(sum); }
};

// Of numbers in registers; what is beyond the row must be -inf.
template <bool kWarp, int N, class A>
__device__ __forceinline__ RowSums<A> row_sums(const A (&x)[N], A* shared) {
  A highest = x[0];
#pragma unroll
  for (int k = 1; k < N; ++k) highest = larger(highest, x[k]);
  highest = finite_highest(group_max<kWarp>(highest, shared));
  A sum = 0;
#pragma unroll
  for (int k = 0; k < N; ++k) sum += exp(x[k] - highest);
  return {highest, group_sum<kWarp>(sum, shared)};
}

// One number after the other, or some at a time, and then over the group.
template <class A>
struct RunningSums {
  A highest = lowest<A>(), sum = 0;
  __device__ __forceinline__ void add(A x) {
    if (x > highest || x != x) {
      sum = sum * exp(highest - x) + 1;
      highest = x;
    } else if (x != lowest<A>()) {
      sum += exp(x - highest);
    }
  }
  template <int N>
  __device__ __forceinline__ void add(const A (&x)[N]) {
    A now = highest;
#pragma unroll
    for (int k = 0; k < N; ++k) now = larger(now, x[k]);
    const A base = finite_highest(now);
    sum *= exp(highest - base);
#pragma unroll
    for (int k = 0; k < N; ++k) sum += exp(x[k] - base);
    highest = now;
  }
  template <bool kWarp>
  __device__ __forceinline__ RowSums<A> over_group(A* shared) const {
    const A all = finite_highest(group_max<kWarp>(highest, shared));
    return {all, group_sum<kWarp>(sum == 0 ? A(0) : sum * exp(highest - all), shared)};
  }
};

// What became of a row's loss and gradient, for any way that rows are spread.
template <class A>
struct LossRule {
  A spread, uniform;  // label smoothing s, and s / n
  __device__ __forceinline__ A hit() const { return 1 - spread; }
  __device__ __forceinline__ A loss(A log_sum, A picked, A total, int64_t n) const {
    A loss = hit() * (log_sum - picked);
    if (spread > 0) loss += spread * (log_sum - total / static_cast<A>(n));
    return loss;
  }
};

constexpr const char* kBadTarget = "target %lld at position %lld is outside the vocabulary of %lld";

}  // namespace lf::cuda
