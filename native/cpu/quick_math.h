// exp, sigmoid and tanh-GELU for the hot places, in AVX-512's own instructions: scaling by 2^n and the estimate of 1 / x
// replace what cpu/simd.h composes from plain arithmetic, at half the instructions and the same accuracy (2 ulp). On other
// instruction sets they are the functions of cpu/simd.h.
#pragma once
#include "cpu/simd.h"

namespace lf {
namespace {

template <class V>
LF_INLINE V quick_exp(V x) {
  return exp(x);
}
template <class V>
LF_INLINE V quick_sigmoid(V x) {
  return sigmoid(x);
}

#if LF_ISA == LF_ISA_AVX512
LF_INLINE Vf quick_exp(Vf x) {
  // NaN passes through: min and max give their second operand then.
  const __m512 low = _mm512_set1_ps(-87.33654f);
  const __m512 above = _mm512_maskz_max_ps(0xffff, low, reinterpret_cast<__m512>(x));
  const Vf y = reinterpret_cast<Vf>(_mm512_maskz_min_ps(0xffff, _mm512_set1_ps(89.0f), above));
  const __m512 whole = _mm512_maskz_roundscale_ps(0xffff, reinterpret_cast<__m512>(y * 1.44269504f),
                                                  _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Vf n = reinterpret_cast<Vf>(whole);
  const Vf r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
  Vf p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const __mmask16 normal = _mm512_cmp_ps_mask(reinterpret_cast<__m512>(x), low, _CMP_NLT_UQ);
  return reinterpret_cast<Vf>(_mm512_maskz_scalef_ps(normal, reinterpret_cast<__m512>(p), whole));
}
// One step of Newton's from the estimate of 1 / d, which is right already where d is infinite.
LF_INLINE Vf quick_sigmoid(Vf x) {
  const Vf d = 1 + quick_exp(-x);
  const __m512 estimate = _mm512_maskz_rcp14_ps(0xffff, reinterpret_cast<__m512>(d));
  const Vf step = 2 - d * reinterpret_cast<Vf>(estimate);
  const __m512 infinity = _mm512_set1_ps(__builtin_inff());
  const __mmask16 finite = _mm512_cmp_ps_mask(reinterpret_cast<__m512>(d), infinity, _CMP_NEQ_UQ);
  return reinterpret_cast<Vf>(_mm512_mask_mul_ps(estimate, finite, estimate, reinterpret_cast<__m512>(step)));
}
#endif

template <class V>
LF_INLINE V quick_gelu_tanh(V x) {
  return x * quick_sigmoid(constant<V>(1.5957691216057308) * (x + constant<V>(0.044715) * x * x * x));
}
template <class V>
LF_INLINE V quick_gelu_tanh_derivative(V x) {
  const V square = x * x;
  // The same sigmoid as in quick_gelu_tanh: computed once where both are wanted.
  const V s = quick_sigmoid(constant<V>(1.5957691216057308) * (x + constant<V>(0.044715) * x * x * x));
  const V du = constant<V>(1.5957691216057308) + constant<V>(1.5957691216057308 * 3 * 0.044715) * square;
  return s * (1 + x * (1 - s) * du);
}
template <class V>
LF_INLINE V quick_silu(V x) {
  return x * quick_sigmoid(x);
}

}  // namespace
}  // namespace lf
