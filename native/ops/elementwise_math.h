// What the expressions of api/elementwise.h need beyond simd.h: functions for integers, and the few that vectors lack.
#pragma once
#include "cpu/simd.h"

namespace lf {
namespace {

// A type in which no single operation overflows; cut back to T afterwards, integers wrap around.
LF_INLINE int32_t widened(int8_t x) { return x; }
LF_INLINE int32_t widened(uint8_t x) { return x; }
LF_INLINE int64_t widened(int32_t x) { return x; }
LF_INLINE __int128 widened(int64_t x) { return x; }

LF_INLINE int32_t abs(int32_t x) { return x < 0 ? -x : x; }
LF_INLINE int64_t abs(int64_t x) { return x < 0 ? -x : x; }
LF_INLINE __int128 abs(__int128 x) { return x < 0 ? -x : x; }

// -1, 0, 1; NaN stays NaN.
template <class V>
LF_INLINE V sign(V x) {
  return x > 0 ? V{} + 1 : (x < 0 ? V{} - 1 : x);
}

LF_INLINE Vf pow(Vf x, Vf y) {
  for (int i = 0; i < kVf; ++i) x[i] = __builtin_powf(x[i], y[i]);
  return x;
}
LF_INLINE Vd pow(Vd x, Vd y) {
  for (int i = 0; i < kVd; ++i) x[i] = __builtin_pow(x[i], y[i]);
  return x;
}

}  // namespace
}  // namespace lf
