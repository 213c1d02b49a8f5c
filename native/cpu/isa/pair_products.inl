// Products of blocks of bf16 numbers that lie in the caches, and how such blocks are packed, for kernels of attention.
// A kernel is a template over Products, which says what instructions there are:
//   Registers   what must live around them
//   kStrips     the rows or keys of a block that the border of a mask is followed in
//   kRowDepth   the rows that an instruction takes along its inner axis
//   by_rows, by_columns   C [m, n] f32 (+)= op(A) [m, 2 units] B [2 units, n], A by rows of pairs, or as [pair][row]
#pragma once
#include "cpu/isa/pairs.h"
#include "cpu/sizes.h"
#include "cpu/small_product.inl"

namespace lf {
namespace {

using Pair = uint32_t;

struct SmallPairs {
  using Unit = Pair;
  using Sum = float;
  using V = Vf;
  using Row = __m512bh;
  static LF_INLINE Row broadcast(Unit unit) { return reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(unit))); }
  static LF_INLINE Row columns(const Unit* units) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(units)); }
  static LF_INLINE V multiply_add(V sum, Row a, Row b) {
    return reinterpret_cast<Vf>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), a, b));
  }
};

struct PairProducts {
  struct Registers {};
  static constexpr int64_t kStrips = 16, kRowDepth = 2;
  static void by_rows(int64_t m, int64_t n, int64_t units, const Pair* a, int64_t lda, const Pair* b, int64_t ldb, float* c,
                      int64_t ldc, bool add) {
    small_product_of<false, SmallPairs>(m, n, units, a, lda, b, ldb, c, ldc, add);
  }
  static void by_columns(int64_t m, int64_t n, int64_t units, const Pair* a, int64_t lda, const Pair* b, int64_t ldb, float* c,
                         int64_t ldc, bool add) {
    small_product_of<true, SmallPairs>(m, n, units, a, lda, b, ldb, c, ldc, add);
  }
};

LF_INLINE const Pair* pairs_of(const bf16* row) { return reinterpret_cast<const Pair*>(row); }

// rows [count][width] -> blocks of `block` rows: [][width / 2][block] pairs along a row, zeros beyond count.
void pack_along_rows(const bf16* rows, int64_t stride, int64_t count, int64_t width, int64_t block, Pair* out) {
  for (int64_t k0 = 0; k0 < count; k0 += block) {
    Pair* to = out + k0 * width / 2;
    int64_t d = 0;
    for (; d + kVf <= width / 2; d += kVf) {
      for (int64_t j = 0; j < block; j += kVf) {
        Vf square[kVf];
        for (int i = 0; i < kVf; ++i) {
          square[i] = k0 + j + i < count ? load(reinterpret_cast<const float*>(rows + (k0 + j + i) * stride + 2 * d)) : Vf{};
        }
        transpose(square);
        for (int i = 0; i < kVf; ++i) store(reinterpret_cast<float*>(to) + (d + i) * block + j, square[i]);
      }
    }
    for (; d < width / 2; ++d) {
      for (int64_t j = 0; j < block; ++j) {
        Pair pair = 0;
        if (k0 + j < count) __builtin_memcpy(&pair, rows + (k0 + j) * stride + 2 * d, sizeof pair);
        to[d * block + j] = pair;
      }
    }
  }
}

// rows [count][width] -> [padded_rows / 2][padded] pairs of a row and the next; zeros beyond count and width.
void pack_across_rows(const bf16* rows, int64_t stride, int64_t count, int64_t padded_rows, int64_t width, int64_t padded, Pair* out) {
  for (int64_t r = 0; r < padded_rows; r += 2, out += padded) {
    for (int64_t i = 0; i < padded; i += kVf) {
      const int64_t n = min64(kVf, width - i);
      const __m256i low = r < count ? load_bits(rows + r * stride + i, n) : _mm256_setzero_si256();
      const __m256i high = r + 1 < count ? load_bits(rows + (r + 1) * stride + i, n) : _mm256_setzero_si256();
      _mm512_storeu_si512(out + i, interleave(low, high));
    }
  }
}

// Two vectors of numbers as the pairs (low[i], high[i]).
LF_INLINE __m512i as_pairs(Vf low, Vf high) { return interleave(round_bits(low), round_bits(high)); }

}  // namespace
}  // namespace lf
