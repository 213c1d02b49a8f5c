// C [m, n] (+)= op(A) [m, k] B [k, n] for blocks that live in L1 or L2, without packing. Row-major; n is a whole number of
// vectors. A register tile of kTileRows rows by kTileVectors vectors; kTransposed: op(A)[i][k] is a[k * lda + i].
// Math says what a unit along k is: one number, or a pair for the bf16 instructions.
#pragma once
#include "cpu/simd.h"

namespace lf {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileVectors = LF_ISA == LF_ISA_AVX512 ? 4 : 2;

template <class Acc>
struct SmallNumbers {
  using Unit = Acc;
  using Sum = Acc;
  using V = typename Lanes<Acc>::V;
  using Row = V;
  static LF_INLINE Row broadcast(Unit unit) { return splat(unit); }
  static LF_INLINE Row columns(const Unit* units) { return load(units); }
  static LF_INLINE V multiply_add(V sum, Row a, Row b) { return sum + a * b; }
};

template <class Math, bool kTransposed, int kRows, int kVectors>
LF_INLINE void product_tile(int64_t k, const typename Math::Unit* a, int64_t lda, const typename Math::Unit* b, int64_t ldb,
                            typename Math::Sum* c, int64_t ldc, bool add) {
  using V = typename Math::V;
  constexpr int kLanes = Lanes<typename Math::Sum>::n;
  V sums[kRows][kVectors];
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kVectors; ++j) sums[i][j] = add ? load(c + i * ldc + j * kLanes) : V{};
  for (int64_t u = 0; u < k; ++u) {
    typename Math::Row columns[kVectors];
    for (int j = 0; j < kVectors; ++j) columns[j] = Math::columns(b + u * ldb + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const typename Math::Row row = Math::broadcast(kTransposed ? a[u * lda + i] : a[i * lda + u]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sums[i][j] = Math::multiply_add(sums[i][j], row, columns[j]);
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kVectors; ++j) store(c + i * ldc + j * kLanes, sums[i][j]);
}

template <class Math, bool kTransposed, int kRows>
void product_rows(int64_t n, int64_t k, const typename Math::Unit* a, int64_t lda, const typename Math::Unit* b, int64_t ldb,
                  typename Math::Sum* c, int64_t ldc, bool add) {
  constexpr int kLanes = Lanes<typename Math::Sum>::n;
  int64_t j = 0;
  for (; j + kTileVectors * kLanes <= n; j += kTileVectors * kLanes) {
    product_tile<Math, kTransposed, kRows, kTileVectors>(k, a, lda, b + j, ldb, c + j, ldc, add);
  }
  if (kTileVectors > 2 && j + 2 * kLanes <= n) {
    product_tile<Math, kTransposed, kRows, 2>(k, a, lda, b + j, ldb, c + j, ldc, add);
    j += 2 * kLanes;
  }
  for (; j < n; j += kLanes) product_tile<Math, kTransposed, kRows, 1>(k, a, lda, b + j, ldb, c + j, ldc, add);
}

template <bool kTransposed, class Math>
void small_product_of(int64_t m, int64_t n, int64_t k, const typename Math::Unit* a, int64_t lda,
                      const typename Math::Unit* b, int64_t ldb, typename Math::Sum* c, int64_t ldc, bool add) {
  const int64_t step = kTransposed ? 1 : lda;
  int64_t i = 0;
  for (; i + kTileRows <= m; i += kTileRows) {
    product_rows<Math, kTransposed, kTileRows>(n, k, a + i * step, lda, b, ldb, c + i * ldc, ldc, add);
  }
  a += i * step;
  c += i * ldc;
  switch (m - i) {
    case 5: return product_rows<Math, kTransposed, 5>(n, k, a, lda, b, ldb, c, ldc, add);
    case 4: return product_rows<Math, kTransposed, 4>(n, k, a, lda, b, ldb, c, ldc, add);
    case 3: return product_rows<Math, kTransposed, 3>(n, k, a, lda, b, ldb, c, ldc, add);
    case 2: return product_rows<Math, kTransposed, 2>(n, k, a, lda, b, ldb, c, ldc, add);
    case 1: return product_rows<Math, kTransposed, 1>(n, k, a, lda, b, ldb, c, ldc, add);
    default: return;
  }
}

template <bool kTransposed, class Acc>
void small_product(int64_t m, int64_t n, int64_t k, const Acc* a, int64_t lda, const Acc* b, int64_t ldb, Acc* c,
                   int64_t ldc, bool add) {
  small_product_of<kTransposed, SmallNumbers<Acc>>(m, n, k, a, lda, b, ldb, c, ldc, add);
}

}  // namespace
}  // namespace lf
