// Rows of a matrix in registers: thread t of a row's `threads` threads holds, for each j, the V numbers from
// (j * threads + t) * V on. V is a pack of 16 bytes where rows allow it, else 1.
#pragma once
#include <initializer_list>
#include <type_traits>

#include "cuda/kernel.cuh"

namespace lf::cuda {

template <class T, int V>
struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Piece {
  T at[V];
};
// Moved as whole words: copied as numbers, the compiler may fall back to one access for each.
template <int kBytes>
struct Words {
  using Type = uint4;
};
template <>
struct Words<8> {
  using Type = uint2;
};
template <>
struct Words<4> {
  using Type = uint32_t;
};
template <>
struct Words<2> {
  using Type = uint16_t;
};
template <int V, class T>
__device__ __forceinline__ Piece<T, V> load_piece(const T* from) {
  using Word = typename Words<sizeof(Piece<T, V>)>::Type;
  Word words[sizeof(Piece<T, V>) / sizeof(Word)];
#pragma unroll
  for (size_t i = 0; i < sizeof words / sizeof(Word); ++i) words[i] = reinterpret_cast<const Word*>(from)[i];
  Piece<T, V> piece;
  memcpy(&piece, words, sizeof piece);
  return piece;
}
template <int V, class T>
__device__ __forceinline__ void store_piece(T* to, const Piece<T, V>& piece) {
  using Word = typename Words<sizeof(Piece<T, V>)>::Type;
  Word words[sizeof(Piece<T, V>) / sizeof(Word)];
  memcpy(words, &piece, sizeof piece);
  // By the instruction itself: assignments may be taken apart again. `to` lies in global memory.
#pragma unroll
  for (size_t i = 0; i < sizeof words / sizeof(Word); ++i) __stwb(reinterpret_cast<Word*>(to) + i, words[i]);
}
// Writes V sums, or adds them to what is there.
template <int V, class A>
__device__ __forceinline__ void store_sums(A* to, const A (&sums)[V], bool add) {
  Piece<A, V> piece;
  if (add) piece = load_piece<V>(to);
#pragma unroll
  for (int k = 0; k < V; ++k) piece.at[k] = add ? piece.at[k] + sums[k] : sums[k];
  store_piece<V>(to, piece);
}

// N numbers a thread; what is beyond the row becomes `fill`. V divides n.
template <int V, int N, class T>
__device__ __forceinline__ void load_row(const T* row, int n, int thread, int threads, Acc<T> fill, Acc<T> (&x)[N]) {
#pragma unroll
  for (int j = 0; j < N / V; ++j) {
    const int i = (j * threads + thread) * V;
    if (i < n) {
      const auto piece = load_piece<V>(row + i);
#pragma unroll
      for (int k = 0; k < V; ++k) x[j * V + k] = widen(piece.at[k]);
    } else {
#pragma unroll
      for (int k = 0; k < V; ++k) x[j * V + k] = fill;
    }
  }
}
template <int V, int N, class T>
__device__ __forceinline__ void store_row(T* row, int n, int thread, int threads, const Acc<T> (&x)[N]) {
#pragma unroll
  for (int j = 0; j < N / V; ++j) {
    const int i = (j * threads + thread) * V;
    if (i < n) {
      Piece<T, V> piece;
#pragma unroll
      for (int k = 0; k < V; ++k) piece.at[k] = narrow<T>(x[j * V + k]);
      store_piece<V>(row + i, piece);
    }
  }
}

// Whether rows of n T, one after the other, can be moved in packs of 16 bytes.
template <class T>
bool rows_in_packs(int64_t n, std::initializer_list<const void*> tensors) {
  if (n % Pack<T>::n) return false;
  for (const void* tensor : tensors) {
    if (!aligned16(tensor)) return false;
  }
  return true;
}
// body(Tag, std::integral_constant): with V, the numbers moved at a time. f64 is for checks and always goes one by one.
template <class T, class F>
int32_t dispatch_pieces(bool packs, F&& body) {
  if constexpr (sizeof(T) < 8) {
    if (packs) return body(std::integral_constant<int, Pack<T>::n>{});
  }
  return body(std::integral_constant<int, 1>{});
}

// A vector in any floating format, such as a weight or a bias.
struct AnyVector {
  const void* data;  // nullptr: absent
  DType dtype;
  bool f32_in_packs;
  explicit AnyVector(const TensorView& view)
      : data(view.present() ? view.data : nullptr), dtype(view.dtype), f32_in_packs(dtype == DType::kF32 && aligned16(data)) {}
};
template <class A>
__device__ __forceinline__ A element(const AnyVector& vector, int64_t i) {
  switch (vector.dtype) {
    case DType::kF16: return static_cast<A>(widen(static_cast<const __half*>(vector.data)[i]));
    case DType::kBF16: return static_cast<A>(widen(static_cast<const __nv_bfloat16*>(vector.data)[i]));
    case DType::kF64: return static_cast<A>(static_cast<const double*>(vector.data)[i]);
    default: return static_cast<A>(static_cast<const float*>(vector.data)[i]);
  }
}

// V numbers from i on.
template <int V, class A>
__device__ __forceinline__ void elements(const AnyVector& vector, int64_t i, A (&out)[V]) {
  if (V % 4 == 0 && vector.f32_in_packs) {
    const auto piece = load_piece<V>(static_cast<const float*>(vector.data) + i);
#pragma unroll
    for (int k = 0; k < V; ++k) out[k] = piece.at[k];
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k) out[k] = element<A>(vector, i + k);
  }
}

}  // namespace lf::cuda
