// Pairs of bf16 numbers in 32-bit lanes, as the vdpbf16ps instruction takes them. Only for files named *_avx512bf16.cpp.
// The forms with a mask, although it is full: g++ 12 warns of the others' undefined lanes.
#pragma once
#include "cpu/simd.h"

namespace lf {
namespace {

// The first n of 16 numbers; the others are zero.
LF_INLINE __m256i load_bits(const bf16* p, int64_t n) {
  return _mm256_maskz_loadu_epi16(static_cast<__mmask16>(n < kVf ? (1u << n) - 1 : 0xffffu), p);
}
// Lane i holds low[i] and, above it, high[i].
LF_INLINE __m512i interleave(__m256i low, __m256i high) {
  const __m512i above = _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, high), 16);
  return _mm512_or_si512(_mm512_maskz_cvtepu16_epi32(0xffff, low), above);
}
// Rounded to nearest, ties to even; numbers below the smallest normal one become zero, as they are for the products.
LF_INLINE __m256i round_bits(Vf v) {
  return reinterpret_cast<__m256i>(_mm512_maskz_cvtneps_pbh(0xffff, reinterpret_cast<__m512>(v)));
}
LF_INLINE void store_two(bf16* p, Vf first, Vf second) {
  const __m512bh row =
      _mm512_maskz_cvtne2ps_pbh(0xffffffffu, reinterpret_cast<__m512>(second), reinterpret_cast<__m512>(first));
  __builtin_memcpy(p, &row, sizeof row);
}

}  // namespace
}  // namespace lf
