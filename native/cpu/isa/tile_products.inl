// The products of cpu/isa/pair_products.inl with AMX. Only for files named *_amx.cpp.
#pragma once
#include "cpu/isa/pair_products.inl"
#include "cpu/isa/tiles.h"

namespace lf {
namespace {

struct TileProducts {
  using Registers = TileRegisters;
  static constexpr int64_t kStrips = 32, kRowDepth = 32;

  // kTallTiles x kWideTiles tiles of C; units is a multiple of 16.
  template <int kTallTiles, int kWideTiles>
  static LF_INLINE void block(int64_t units, const Pair* a, int64_t lda, const Pair* b, int64_t ldb, float* c, int64_t ldc, bool add) {
    constexpr bool kTall = kTallTiles == 2, kWide = kWideTiles == 2;
    float* below = c + kAmxRows * ldc;
    if (add) {
      _tile_loadd(0, c, ldc * 4);
      if constexpr (kWide) _tile_loadd(1, c + kVf, ldc * 4);
      if constexpr (kTall) _tile_loadd(2, below, ldc * 4);
      if constexpr (kTall && kWide) _tile_loadd(3, below + kVf, ldc * 4);
    } else {
      _tile_zero(0);
      if constexpr (kWide) _tile_zero(1);
      if constexpr (kTall) _tile_zero(2);
      if constexpr (kTall && kWide) _tile_zero(3);
    }
    for (int64_t u = 0; u < units; u += kVf) {
      _tile_loadd(6, b + u * ldb, ldb * 4);
      _tile_loadd(4, a + u, lda * 4);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (kWide) {
        _tile_loadd(7, b + u * ldb + kVf, ldb * 4);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (kTall) {
        _tile_loadd(5, a + kAmxRows * lda + u, lda * 4);
        _tile_dpbf16ps(2, 5, 6);
      }
      if constexpr (kTall && kWide) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, ldc * 4);
    if constexpr (kWide) _tile_stored(1, c + kVf, ldc * 4);
    if constexpr (kTall) _tile_stored(2, below, ldc * 4);
    if constexpr (kTall && kWide) _tile_stored(3, below + kVf, ldc * 4);
  }

  template <int kTallTiles>
  static LF_INLINE void rows_of_blocks(int64_t n, int64_t units, const Pair* a, int64_t lda, const Pair* b, int64_t ldb, float* c,
                                       int64_t ldc, bool add) {
    int64_t j = 0;
    for (; j + 2 * kVf <= n; j += 2 * kVf) block<kTallTiles, 2>(units, a, lda, b + j, ldb, c + j, ldc, add);
    if (j < n) block<kTallTiles, 1>(units, a, lda, b + j, ldb, c + j, ldc, add);
  }

  static void by_rows(int64_t m, int64_t n, int64_t units, const Pair* a, int64_t lda, const Pair* b, int64_t ldb, float* c,
                      int64_t ldc, bool add) {
    Registers::tile_fence();
    int64_t i = 0;
    for (; i + 2 * kAmxRows <= m; i += 2 * kAmxRows) rows_of_blocks<2>(n, units, a + i * lda, lda, b, ldb, c + i * ldc, ldc, add);
    for (; i + kAmxRows <= m; i += kAmxRows) rows_of_blocks<1>(n, units, a + i * lda, lda, b, ldb, c + i * ldc, ldc, add);
    Registers::tile_fence();
    // A tile would read rows that are not there.
    if (i < m) PairProducts::by_rows(m - i, n, units, a + i * lda, lda, b, ldb, c + i * ldc, ldc, add);
  }

  // Up to 64 units, in whole squares.
  static void by_columns(int64_t m, int64_t n, int64_t units, const Pair* a, int64_t lda, const Pair* b, int64_t ldb, float* c,
                         int64_t ldc, bool add) {
    constexpr int64_t kRows = 64, kMostUnits = 64;
    alignas(64) Pair rows[kRows * kMostUnits];
    for (int64_t first = 0; first < m; first += kRows) {
      const int64_t count = min64(kRows, m - first);
      for (int64_t u = 0; u < units; u += kVf) {
        for (int64_t i = 0; i < count; i += kVf) {
          Vf square[kVf];
          for (int64_t v = 0; v < kVf; ++v) square[v] = load(reinterpret_cast<const float*>(a + (u + v) * lda + first + i));
          transpose(square);
          for (int64_t v = 0; v < kVf; ++v) store(reinterpret_cast<float*>(rows + (i + v) * units + u), square[v]);
        }
      }
      by_rows(count, n, units, rows, units, b, ldb, c + first * ldc, ldc, add);
    }
  }
};

}  // namespace
}  // namespace lf
