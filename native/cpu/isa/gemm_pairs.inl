// Operands of bf16 products in pairs: a 32-bit lane holds two neighbours along k, their products are added in f32. The
// register tile is made of vdpbf16ps instructions.
#pragma once
#include "cpu/isa/gemm.inl"

#include "cpu/isa/pairs.h"

namespace lf {
namespace {

struct Pairs {
  using In = bf16;
  using Unit = uint32_t;
  using Sum = float;
  using V = Vf;
  struct Registers {};
  static constexpr int kPair = 2, kUnitsAnAsk = 1;
  static constexpr bool kTiles = false;
  static constexpr int64_t kTaskBytes = int64_t{288} << 10;
  static constexpr int kMR = 14, kNV = 2, kLanes = kVf, kNR = kNV * kLanes;
  static constexpr int64_t kKC = 768;

  static LF_INLINE Vf load_units(const bf16* p) {
    Vf v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static LF_INLINE Unit unit(const bf16* p, int64_t left) {
    return p[0].bits | (left > 1 ? static_cast<uint32_t>(p[1].bits) << 16 : 0u);
  }
  static LF_INLINE Vf sums(const Unit* units, int64_t count) {
    const Vu pairs = reinterpret_cast<Vu>(load_some(reinterpret_cast<const float*>(units), count));
    return reinterpret_cast<Vf>(pairs << 16) + reinterpret_cast<Vf>(pairs & 0xffff0000u);
  }

  // Of two rows, interleaved; the second is absent when only one number of k is left.
  template <int kWidth>
  static LF_INLINE void pack_across(const bf16* rows, int64_t ld, int64_t left, int64_t count, Unit* out) {
    for (int i = 0; i < kWidth; i += kVf) {
      const int64_t n = max64(count - i, 0);
      const __m256i above = left > 1 ? load_bits(rows + ld + i, n) : _mm256_setzero_si256();
      _mm512_storeu_si512(out + i, interleave(load_bits(rows + i, n), above));
    }
  }

  using Dot = __m512bh;
  static constexpr int kDot = 2 * kLanes;
  static LF_INLINE Dot load_dot(const bf16* p, int64_t n) {
    if (n == kDot) return reinterpret_cast<Dot>(_mm512_loadu_si512(p));
    return reinterpret_cast<Dot>(_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << n) - 1), p));
  }
  static LF_INLINE V dot(V sums, Dot x, Dot y) {
    return reinterpret_cast<V>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sums), x, y));
  }

  static LF_INLINE void store_row(float* out, const Vf* values) {
    store(out, values[0]);
    store(out + kLanes, values[1]);
  }
  static LF_INLINE void store_row(bf16* out, const Vf* values) {
    store_two(out, values[0], values[1]);
  }

  template <bool kRowPanel, int kRows, class C>
  static LF_INLINE void multiply(int64_t units, const Unit* a, const Unit* b, const Sum* start, int64_t start_ld, C* out,
                                 int64_t ld, Ahead& ahead_of) {
    Ahead ahead = ahead_of;
    V sums[kRows][kNV];
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < kNV; ++j) sums[i][j] = start ? load(start + i * start_ld + j * kLanes) : V{};
    for (int64_t u = 0; u < units; ++u) {
      __m512bh columns[kNV];
      for (int j = 0; j < kNV; ++j) {
        columns[j] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + u * kNR + j * kLanes));
      }
      ahead.ask();
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const auto row = reinterpret_cast<__m512bh>(
            _mm512_set1_epi32(static_cast<int>(kRowPanel ? a[i * kRowStride<Pairs> + u] : a[u * kMR + i])));
#pragma GCC unroll 4
        for (int j = 0; j < kNV; ++j) sums[i][j] = dot(sums[i][j], row, columns[j]);
      }
    }
    ahead_of = ahead;
    for (int i = 0; i < kRows; ++i) store_row(out + i * ld, sums[i]);
  }
};

}  // namespace
}  // namespace lf
