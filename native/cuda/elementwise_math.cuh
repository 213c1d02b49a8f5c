// The functions that the expressions of api/elementwise.h are made of, for V = float and double, and for the widened
// integers where all numbers are admitted.
#pragma once
#include "cuda/kernel.cuh"

namespace lf::cuda {

#define LF_DEVICE __device__ __forceinline__

template <class V>
LF_DEVICE V constant(double x) {
  return static_cast<V>(x);
}

// Long functions, and those of f64, which serves checks, are called: inlined for every element of every pack they would make
// most of the library.
#define LF_FUNCTION(name, short_or_called)                      \
  short_or_called float name(float x) { return ::name##f(x); } \
  LF_CALLED double name(double x) { return ::name(x); }
#define LF_CALLED __device__ __noinline__ inline
LF_FUNCTION(exp, LF_DEVICE)
LF_FUNCTION(log, LF_DEVICE)
LF_FUNCTION(sqrt, LF_DEVICE)
LF_FUNCTION(sin, LF_CALLED)
LF_FUNCTION(cos, LF_CALLED)
LF_FUNCTION(tanh, LF_DEVICE)
LF_FUNCTION(erf, LF_DEVICE)
LF_FUNCTION(floor, LF_DEVICE)
#undef LF_FUNCTION
LF_CALLED float pow(float x, float y) { return ::powf(x, y); }
LF_CALLED double pow(double x, double y) { return ::pow(x, y); }
LF_DEVICE float abs(float x) { return ::fabsf(x); }
LF_DEVICE double abs(double x) { return ::fabs(x); }

// A type in which no single operation overflows; cut back to the format afterwards, integers wrap around.
LF_DEVICE int32_t widen(int8_t x) { return x; }
LF_DEVICE int32_t widen(uint8_t x) { return x; }
LF_DEVICE int64_t widen(int32_t x) { return x; }
LF_DEVICE __int128 widen(int64_t x) { return x; }
LF_DEVICE int32_t abs(int32_t x) { return x < 0 ? -x : x; }
LF_DEVICE int64_t abs(int64_t x) { return x < 0 ? -x : x; }
LF_DEVICE __int128 abs(__int128 x) { return x < 0 ? -x : x; }

// -1, 0, 1; NaN stays NaN.
template <class V>
LF_DEVICE V sign(V x) {
  return x > 0 ? V{} + 1 : (x < 0 ? V{} - 1 : x);
}
// The quick division (2 ulp) gives 0 where 1 + exp(-x) is beyond 2^126.
LF_DEVICE float sigmoid(float x) { return __fdividef(1.0f, 1.0f + exp(-x)); }
LF_DEVICE double sigmoid(double x) { return 1 / (1 + exp(-x)); }
// (1 + tanh u) / 2 = sigmoid(2 u): no digits cancel for negative x.
template <class V>
LF_DEVICE V gelu_tanh(V x) {
  const V u = constant<V>(1.5957691216057308) * (x + constant<V>(0.044715) * x * x * x);
  return x * sigmoid(u);
}
template <class V>
LF_DEVICE V gelu_tanh_derivative(V x) {
  const V u = constant<V>(1.5957691216057308) * (x + constant<V>(0.044715) * x * x * x);
  const V s = sigmoid(u);
  const V du = constant<V>(1.5957691216057308) * (1 + constant<V>(3 * 0.044715) * x * x);
  return s * (1 + x * (1 - s) * du);
}
template <class V>
LF_DEVICE V gelu_erf(V x) {
  return constant<V>(0.5) * x * (1 + erf(x * constant<V>(0.7071067811865476)));
}
template <class V>
LF_DEVICE V gelu_erf_derivative(V x) {
  const V density = constant<V>(0.3989422804014327) * exp(constant<V>(-0.5) * x * x);
  return constant<V>(0.5) * (1 + erf(x * constant<V>(0.7071067811865476))) + x * density;
}
template <class V>
LF_DEVICE V silu(V x) {
  return x * sigmoid(x);
}
template <class V>
LF_DEVICE V silu_derivative(V x) {
  const V s = sigmoid(x);
  return s * (1 + x * (1 - s));
}
template <class V>
LF_DEVICE V relu(V x) {
  return x < 0 ? V{} : x;  // NaN stays NaN
}
template <class V>
LF_DEVICE V relu_derivative(V x) {
  return x <= 0 ? V{} : constant<V>(1);
}

}  // namespace lf::cuda
