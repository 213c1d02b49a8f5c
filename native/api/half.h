// f16 and bf16 as bit patterns, and their conversions, rounding to nearest with ties to even; NaN stays NaN.
#pragma once
#include <cstdint>

#include "api/kernel.h"

namespace lf {

struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

LF_INLINE uint32_t float_bits(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}
LF_INLINE float bits_float(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, 4);
  return x;
}

LF_INLINE float to_float(bf16 x) { return bits_float(static_cast<uint32_t>(x.bits) << 16); }

LF_INLINE bf16 to_bf16(float x) {
  const uint32_t u = float_bits(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16)};
}

LF_INLINE float to_float(f16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  const uint32_t body = x.bits & 0x7fff;
  if (body >= 0x7c00) return bits_float(sign | 0x7f800000u | ((body & 0x3ff) << 13));
  // Multiplying by 2^112 moves the exponent bias from 15 to 127, and makes subnormals right too.
  const float scaled = bits_float(body << 13) * 5.192296858534828e+33f;
  return bits_float(sign | float_bits(scaled));
}

LF_INLINE f16 to_f16(float x) {
  const uint32_t u = float_bits(x);
  const uint32_t sign = (u >> 16) & 0x8000;
  const uint32_t size = u & 0x7fffffffu;
  if (size > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00)};
  if (size >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00)};  // 65520 and more
  if (size < 0x38800000u) {  // below 2^-14: adding 0.5 lets the float adder round at the last subnormal bit
    const uint32_t sum = float_bits(bits_float(size) + 0.5f);
    return {static_cast<uint16_t>(sign | (sum - 0x3f000000u))};
  }
  const uint32_t rounded = size - 0x38000000u + 0xfffu + ((size >> 13) & 1);
  return {static_cast<uint16_t>(sign | (rounded >> 13))};
}

LF_INLINE float to_float(float x) { return x; }

// from_float<T>: a value of any of the three formats.
template <class T>
struct FromFloat;
template <>
struct FromFloat<float> {
  static LF_INLINE float of(float x) { return x; }
};
template <>
struct FromFloat<f16> {
  static LF_INLINE f16 of(float x) { return to_f16(x); }
};
template <>
struct FromFloat<bf16> {
  static LF_INLINE bf16 of(float x) { return to_bf16(x); }
};

}  // namespace lf
