// The two 8-bit floating formats: E4M3 (bias 7, largest 448, no infinity, NaN is 0x7f) and E5M2 (bias 15, largest 57344,
// infinity 0x7c, NaN above it). Rounding is to nearest, ties to even. Source: Micikevicius et al., arXiv 2209.05433.
#pragma once
#include "api/half.h"

namespace lf {

enum class Fp8 : int32_t { kE4M3 = 0, kE5M2 };  // as the attributes count

template <Fp8 format>
struct Fp8Format {
  static constexpr bool kWide = format == Fp8::kE5M2;  // more exponents
  static constexpr int kMantissa = kWide ? 2 : 3, kBias = kWide ? 15 : 7;
  static constexpr uint32_t kLargest = kWide ? 0x7b : 0x7e, kNaN = kWide ? 0x7e : 0x7f;
  static constexpr uint32_t kOverflow = kWide ? 0x7c : 0x7f;  // infinity, or NaN where there is none
  static constexpr float kMost = kWide ? 57344.0f : 448.0f;
};

// Finite numbers beyond the largest become it (`saturate`), or infinity or NaN, which infinities become in any case: what was
// not finite stays visible.
template <Fp8 format>
LF_INLINE uint8_t to_fp8(float x, bool saturate) {
  using F = Fp8Format<format>;
  constexpr uint32_t kShift = 23 - F::kMantissa;
  const uint32_t u = float_bits(x), sign = (u >> 24) & 0x80, size = u & 0x7fffffffu;
  // Below the smallest normal number: adding this lets the float adder round at the last subnormal bit.
  constexpr uint32_t kMagic = static_cast<uint32_t>(127 - F::kBias + 1 + 23 - F::kMantissa) << 23;
  constexpr uint32_t kNormal = static_cast<uint32_t>(127 - F::kBias + 1) << 23;
  const uint32_t small = float_bits(bits_float(size) + bits_float(kMagic)) - kMagic;
  const uint32_t rounded = size + ((1u << (kShift - 1)) - 1) + ((size >> kShift) & 1);
  const uint32_t normal = (rounded >> kShift) - (static_cast<uint32_t>(127 - F::kBias) << F::kMantissa);
  uint32_t code = size < kNormal ? small : normal;
  if (size >= kNormal && code > F::kLargest) code = saturate && size < 0x7f800000u ? F::kLargest : F::kOverflow;
  if (size > 0x7f800000u) code = F::kNaN;
  return static_cast<uint8_t>(sign | code);
}

template <Fp8 format>
LF_INLINE float from_fp8(uint8_t code) {
  using F = Fp8Format<format>;
  const uint32_t sign = static_cast<uint32_t>(code & 0x80) << 24, size = code & 0x7f;
  if (size > F::kLargest) return bits_float(sign | (F::kWide && size == 0x7c ? 0x7f800000u : 0x7fc00000u));
  // Multiplying by 2^(127 - bias) moves the exponent's bias, and makes subnormals right too.
  const float scaled = bits_float(size << (23 - F::kMantissa)) * bits_float(static_cast<uint32_t>(254 - F::kBias) << 23);
  return bits_float(sign | float_bits(scaled));
}

}  // namespace lf
