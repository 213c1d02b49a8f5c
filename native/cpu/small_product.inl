// C [m, n] (+)= op(A) [m, k] B [k, n] for blocks that live in L1 or L2, without packing. Row-major; n is a whole number of
// vectors. A register tile of kTileRows rows by kTileVectors vectors; kTransposed: op(A)[i][k] is a[k * lda + i].
#pragma once
#include "cpu/simd.h"

namespace lf {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileVectors = LF_ISA == LF_ISA_AVX512 ? 4 : 2;

template <class Acc, bool kTransposed, int kRows, int kVectors>
LF_INLINE void product_tile(int64_t k, const Acc* a, int64_t lda, const Acc* b, int64_t ldb, Acc* c, int64_t ldc, bool add) {
  using V = typename Lanes<Acc>::V;
  constexpr int kLanes = Lanes<Acc>::n;
  V sums[kRows][kVectors];
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kVectors; ++j) sums[i][j] = add ? load(c + i * ldc + j * kLanes) : V{};
  for (int64_t u = 0; u < k; ++u) {
    V columns[kVectors];
    for (int j = 0; j < kVectors; ++j) columns[j] = load(b + u * ldb + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const V row = splat(kTransposed ? a[u * lda + i] : a[i * lda + u]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sums[i][j] += row * columns[j];
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kVectors; ++j) store(c + i * ldc + j * kLanes, sums[i][j]);
}

template <class Acc, bool kTransposed, int kRows>
void product_rows(int64_t n, int64_t k, const Acc* a, int64_t lda, const Acc* b, int64_t ldb, Acc* c, int64_t ldc, bool add) {
  constexpr int kLanes = Lanes<Acc>::n;
  int64_t j = 0;
  for (; j + kTileVectors * kLanes <= n; j += kTileVectors * kLanes) {
    product_tile<Acc, kTransposed, kRows, kTileVectors>(k, a, lda, b + j, ldb, c + j, ldc, add);
  }
  for (; j < n; j += kLanes) product_tile<Acc, kTransposed, kRows, 1>(k, a, lda, b + j, ldb, c + j, ldc, add);
}

template <bool kTransposed, class Acc>
void small_product(int64_t m, int64_t n, int64_t k, const Acc* a, int64_t lda, const Acc* b, int64_t ldb, Acc* c,
                   int64_t ldc, bool add) {
  const int64_t step = kTransposed ? 1 : lda;
  int64_t i = 0;
  for (; i + kTileRows <= m; i += kTileRows) {
    product_rows<Acc, kTransposed, kTileRows>(n, k, a + i * step, lda, b, ldb, c + i * ldc, ldc, add);
  }
  a += i * step;
  c += i * ldc;
  switch (m - i) {
    case 5: return product_rows<Acc, kTransposed, 5>(n, k, a, lda, b, ldb, c, ldc, add);
    case 4: return product_rows<Acc, kTransposed, 4>(n, k, a, lda, b, ldb, c, ldc, add);
    case 3: return product_rows<Acc, kTransposed, 3>(n, k, a, lda, b, ldb, c, ldc, add);
    case 2: return product_rows<Acc, kTransposed, 2>(n, k, a, lda, b, ldb, c, ldc, add);
    case 1: return product_rows<Acc, kTransposed, 1>(n, k, a, lda, b, ldb, c, ldc, add);
    default: return;
  }
}

}  // namespace
}  // namespace lf
