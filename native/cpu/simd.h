// The vector layer of kernel files: one source for SSE2, NEON, AVX2 and AVX-512 through the compiler's vector types. Vf
// holds kVf floats; Vd holds kVd doubles and serves the f64 checks, where speed does not matter. A kernel template over
// the element type T uses Lanes<T>: f32, f16 and bf16 are computed in Vf, f64 in Vd.
// Accuracy of the f32 functions against f64, over their whole range: exp, tanh, erf, log within 2 ulp (test/native/simd).
#pragma once
#include <cmath>

#include "api/half.h"
#include "cpu/kernel.h"
#if LF_ISA >= LF_ISA_AVX2
#include <immintrin.h>
#endif

namespace lf {
namespace {

#if LF_ISA == LF_ISA_AVX512
constexpr int kVf = 16;
#elif LF_ISA == LF_ISA_AVX2
constexpr int kVf = 8;
#else
constexpr int kVf = 4;
#endif
constexpr int kVd = kVf / 2;

typedef float Vf __attribute__((vector_size(kVf * 4)));
typedef int32_t Vi __attribute__((vector_size(kVf * 4)));
typedef uint32_t Vu __attribute__((vector_size(kVf * 4)));
typedef uint16_t Vh __attribute__((vector_size(kVf * 2)));
typedef double Vd __attribute__((vector_size(kVd * 8)));
typedef int64_t Vl __attribute__((vector_size(kVd * 8)));

template <class T>
struct Lanes {
  using V = Vf;
  using Scalar = float;
  static constexpr int n = kVf;
};
template <>
struct Lanes<double> {
  using V = Vd;
  using Scalar = double;
  static constexpr int n = kVd;
};

// x - 0 is x for every x (0 + x is not, for -0), so this is one broadcast.
LF_INLINE Vf splat(float x) { return x - Vf{}; }
LF_INLINE Vd splat(double x) { return x - Vd{}; }
template <class V>
LF_INLINE V constant(double x) {
  if constexpr (sizeof(V{}[0]) == 4) {
    return splat(static_cast<float>(x));
  } else {
    return splat(x);
  }
}

// --- memory ---------------------------------------------------------------------------------------------------------

LF_INLINE Vf load(const float* p) {
  Vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
LF_INLINE Vd load(const double* p) {
  Vd v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
LF_INLINE Vf load(const bf16* p) {
  Vh h;
  __builtin_memcpy(&h, p, sizeof h);
  return reinterpret_cast<Vf>(__builtin_convertvector(h, Vu) << 16);
}
LF_INLINE Vf load(const f16* p) {
#if LF_ISA == LF_ISA_AVX512
  return reinterpret_cast<Vf>(_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif LF_ISA == LF_ISA_AVX2
  return reinterpret_cast<Vf>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  Vf v{};
  for (int i = 0; i < kVf; ++i) v[i] = to_float(p[i]);
  return v;
#endif
}
LF_INLINE void store(float* p, Vf v) { __builtin_memcpy(p, &v, sizeof v); }
LF_INLINE void store(double* p, Vd v) { __builtin_memcpy(p, &v, sizeof v); }
LF_INLINE void store(bf16* p, Vf v) {
  const Vu u = reinterpret_cast<Vu>(v);
  const Vu rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const Vu quiet = (u >> 16) | 0x40u;
  const Vu bits = v == v ? rounded : quiet;
  const Vh h = __builtin_convertvector(bits, Vh);
  __builtin_memcpy(p, &h, sizeof h);
}
LF_INLINE void store(f16* p, Vf v) {
#if LF_ISA == LF_ISA_AVX512
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif LF_ISA == LF_ISA_AVX2
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  for (int i = 0; i < kVf; ++i) p[i] = to_f16(v[i]);
#endif
}

// The first n elements (0 <= n < lanes); the other lanes load as zero and are not stored.
template <class T>
LF_INLINE typename Lanes<T>::V load(const T* p, int64_t n) {
#if LF_ISA == LF_ISA_AVX512
  const auto mask = static_cast<__mmask16>((1u << n) - 1);
  if constexpr (sizeof(T) == 4) {
    return reinterpret_cast<Vf>(_mm512_maskz_loadu_ps(mask, p));
  } else if constexpr (sizeof(T) == 8) {
    return reinterpret_cast<Vd>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p));
  } else {
    T buffer[kVf];
    const __m256i bits = _mm256_maskz_loadu_epi16(mask, p);
    __builtin_memcpy(buffer, &bits, sizeof buffer);
    return load(buffer);
  }
#else
  T buffer[Lanes<T>::n] = {};
  __builtin_memcpy(buffer, p, static_cast<size_t>(n) * sizeof(T));
  return load(buffer);
#endif
}
template <class T>
LF_INLINE void store(T* p, typename Lanes<T>::V v, int64_t n) {
#if LF_ISA == LF_ISA_AVX512
  const auto mask = static_cast<__mmask16>((1u << n) - 1);
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(p, mask, reinterpret_cast<__m512>(v));
  } else if constexpr (sizeof(T) == 8) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), reinterpret_cast<__m512d>(v));
  } else {
    T buffer[kVf];
    store(buffer, v);
    __m256i bits;
    __builtin_memcpy(&bits, buffer, sizeof bits);
    _mm256_mask_storeu_epi16(p, mask, bits);
  }
#else
  T buffer[Lanes<T>::n];
  store(buffer, v);
  __builtin_memcpy(p, buffer, static_cast<size_t>(n) * sizeof(T));
#endif
}

// f(index, count): full vectors first, then one partial one, over [0, n).
template <class T, class F>
LF_INLINE void for_lanes(int64_t n, F&& f) {
  constexpr int64_t kStep = Lanes<T>::n;
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) f(i, kStep);
  if (i < n) f(i, n - i);
}
// The sum of f(i, count), lane by lane, over vectors of neighbours below n. Four chains, because an addition takes a while.
template <class T, class F>
LF_INLINE typename Lanes<T>::V sum_lanes(int64_t n, F&& f) {
  constexpr int64_t kStep = Lanes<T>::n;
  typename Lanes<T>::V chains[4] = {};
  int64_t i = 0;
  for (; i + 4 * kStep <= n; i += 4 * kStep) {
    for (int64_t c = 0; c < 4; ++c) chains[c] += f(i + c * kStep, kStep);
  }
  for (; i + kStep <= n; i += kStep) chains[0] += f(i, kStep);
  if (i < n) chains[1] += f(i, n - i);
  return (chains[0] + chains[1]) + (chains[2] + chains[3]);
}

template <class T>
LF_INLINE typename Lanes<T>::V load_some(const T* p, int64_t n) {
  return n == Lanes<T>::n ? load(p) : load(p, n);
}
template <class T>
LF_INLINE void store_some(T* p, typename Lanes<T>::V v, int64_t n) {
  if (n == Lanes<T>::n) {
    store(p, v);
  } else {
    store(p, v, n);
  }
}

// One element, computed as float or double.
LF_INLINE float get(const float* p) { return *p; }
LF_INLINE double get(const double* p) { return *p; }
LF_INLINE float get(const f16* p) { return to_float(*p); }
LF_INLINE float get(const bf16* p) { return to_float(*p); }
LF_INLINE void put(float* p, float x) { *p = x; }
LF_INLINE void put(double* p, double x) { *p = x; }
LF_INLINE void put(f16* p, float x) { *p = to_f16(x); }
LF_INLINE void put(bf16* p, float x) { *p = to_bf16(x); }

// --- lanes against each other, in a fixed order -----------------------------------------------------------------------

template <class V>
struct IndexOf {
  using Type = Vi;
};
template <>
struct IndexOf<Vd> {
  using Type = Vl;
};

// Lane i receives lane i + distance, around the end.
template <int kDistance, class V>
LF_INLINE V rotate(V v) {
  constexpr int n = sizeof(V) / sizeof(v[0]);
  typename IndexOf<V>::Type lanes;
  for (int i = 0; i < n; ++i) lanes[i] = (i + kDistance) % n;
  return __builtin_shuffle(v, lanes);
}

// Halves are added to each other until one lane is left.
template <class V, int kHalf = sizeof(V) / sizeof(V{}[0]) / 2>
LF_INLINE auto reduce_add(V v) {
  v += rotate<kHalf>(v);
  if constexpr (kHalf > 1) return reduce_add<V, kHalf / 2>(v);
  else return v[0];
}
// NaN if any lane is.
template <class V, int kHalf = sizeof(V) / sizeof(V{}[0]) / 2>
LF_INLINE auto reduce_max(V v) {
  const V other = rotate<kHalf>(v);
  v = other > v ? other : v;
  v = other != other ? other : v;
  if constexpr (kHalf > 1) return reduce_max<V, kHalf / 2>(v);
  else return v[0];
}

// Swaps the off-diagonal blocks of 1, 2, 4, ... lanes: a square block of 32-bit units, transposed in registers.
template <int kStep>
LF_INLINE void transpose_step(Vf* rows) {
  Vi low, high;
  for (int lane = 0; lane < kVf; ++lane) {
    low[lane] = lane & kStep ? kVf + lane - kStep : lane;
    high[lane] = lane & kStep ? kVf + lane : lane + kStep;
  }
  for (int i = 0; i < kVf; ++i) {
    if (i & kStep) continue;
    const Vf a = rows[i], b = rows[i + kStep];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + kStep] = __builtin_shuffle(a, b, high);
  }
}
LF_INLINE void transpose(Vf* rows) {
  transpose_step<1>(rows);
  transpose_step<2>(rows);
  if constexpr (kVf >= 8) transpose_step<4>(rows);
  if constexpr (kVf >= 16) transpose_step<8>(rows);
}

// --- arithmetic -------------------------------------------------------------------------------------------------------

// The second operand where either is NaN.
template <class V>
LF_INLINE V min(V a, V b) {
  return a < b ? a : b;
}
template <class V>
LF_INLINE V max(V a, V b) {
  return a > b ? a : b;
}
LF_INLINE Vf abs(Vf x) { return reinterpret_cast<Vf>(reinterpret_cast<Vu>(x) & 0x7fffffffu); }
LF_INLINE Vd abs(Vd x) { return x < 0 ? -x : x; }
LF_INLINE Vf copysign(Vf size, Vf sign) {
  return reinterpret_cast<Vf>((reinterpret_cast<Vu>(size) & 0x7fffffffu) | (reinterpret_cast<Vu>(sign) & 0x80000000u));
}

#define LF_LANEWISE(name, V, function)                                                  \
  LF_INLINE V name(V x) {                                                               \
    for (int i = 0; i < static_cast<int>(sizeof(V) / sizeof(x[0])); ++i) x[i] = function(x[i]); \
    return x;                                                                           \
  }
LF_LANEWISE(exp, Vd, __builtin_exp)
LF_LANEWISE(log, Vd, __builtin_log)
LF_LANEWISE(tanh, Vd, __builtin_tanh)
LF_LANEWISE(erf, Vd, __builtin_erf)
LF_LANEWISE(sin, Vd, __builtin_sin)
LF_LANEWISE(cos, Vd, __builtin_cos)
LF_LANEWISE(sqrt, Vd, __builtin_sqrt)
LF_LANEWISE(floor, Vd, __builtin_floor)
LF_LANEWISE(sin, Vf, __builtin_sinf)
LF_LANEWISE(cos, Vf, __builtin_cosf)
LF_LANEWISE(floor, Vf, __builtin_floorf)
#if LF_ISA == LF_ISA_AVX512
LF_INLINE Vf sqrt(Vf x) { return reinterpret_cast<Vf>(_mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(x))); }
#elif LF_ISA == LF_ISA_AVX2
LF_INLINE Vf sqrt(Vf x) { return reinterpret_cast<Vf>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x))); }
#else
LF_LANEWISE(sqrt, Vf, __builtin_sqrtf)
#endif
#undef LF_LANEWISE

// e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln 2 / 2; e^r by a polynomial of degree 7. Results below the smallest
// normal number are 0.
LF_INLINE Vf exp_reduced(Vf r) {
  Vf p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * (r * r) + r + 1.0f;
}
#if LF_ISA == LF_ISA_AVX512
// Half the instructions by those that round and scale by 2^n in one.
LF_INLINE Vf exp(Vf x) {
  // NaN passes through: min and max give their second operand then.
  const __m512 low = _mm512_set1_ps(-87.33654f);
  const __m512 above = _mm512_maskz_max_ps(0xffff, low, reinterpret_cast<__m512>(x));
  const Vf y = reinterpret_cast<Vf>(_mm512_maskz_min_ps(0xffff, _mm512_set1_ps(89.0f), above));
  const __m512 whole = _mm512_maskz_roundscale_ps(0xffff, reinterpret_cast<__m512>(y * 1.44269504f),
                                                  _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Vf n = reinterpret_cast<Vf>(whole);
  const Vf p = exp_reduced((y - n * 0.693359375f) + n * 2.12194440e-4f);
  const __mmask16 normal = _mm512_cmp_ps_mask(reinterpret_cast<__m512>(x), low, _CMP_NLT_UQ);
  return reinterpret_cast<Vf>(_mm512_maskz_scalef_ps(normal, reinterpret_cast<__m512>(p), whole));
}
#else
LF_INLINE Vf exp(Vf x) {
  const Vf low = splat(-87.33654f), high = splat(88.72283f);
  const Vf clamped = min(max(x, low), high);
  const Vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Vf n = (clamped * 1.44269504f + magic) - magic;
  const Vf p = exp_reduced((clamped - n * 0.693359375f) + n * 2.12194440e-4f);
  // 2^n in two factors, so that n = 128 does not overflow before its time.
  const Vi whole = __builtin_convertvector(n, Vi);
  const Vi half = whole >> 1;
  const Vf a = reinterpret_cast<Vf>((half + 127) << 23);
  const Vf b = reinterpret_cast<Vf>((whole - half + 127) << 23);
  Vf y = (p * a) * b;
  y = x < low ? Vf{} : y;
  y = x > high ? splat(__builtin_inff()) : y;
  return x == x ? y : x;
}
#endif

// x = m 2^e with m in [sqrt(1/2), sqrt(2)); log(1 + (m - 1)) by a polynomial. log(0) = -inf, log(negative) = NaN.
LF_INLINE Vf log(Vf x) {
  const Vf smallest = splat(1.17549435e-38f);
  const auto tiny = x < smallest;
  const Vf scaled = tiny ? x * 8388608.0f : x;
  const Vi bits = reinterpret_cast<Vi>(scaled);
  Vf e = __builtin_convertvector((bits >> 23) - 126, Vf) - (tiny ? splat(23.0f) : Vf{});
  Vf m = reinterpret_cast<Vf>((bits & 0x007fffff) | 0x3f000000);
  const auto small = m < 0.707106781f;
  e = small ? e - 1.0f : e;
  m = (small ? m + m : m) - 1.0f;
  const Vf z = m * m;
  Vf p = splat(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  Vf y = p * m * z + e * -2.12194440e-4f - z * 0.5f;
  y = m + y + e * 0.693359375f;
  const Vf infinity = splat(__builtin_inff());
  y = x == infinity ? infinity : y;
  y = x == 0.0f ? -infinity : y;
  y = x < 0.0f ? splat(__builtin_nanf("")) : y;
  return x == x ? y : x;
}

LF_INLINE Vf tanh(Vf x) {
  const Vf size = abs(x);
  const Vf z = x * x;
  Vf p = splat(-5.70498872745e-3f);
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const Vf near = p * z * x + x;
  const Vf far = 1.0f - 2.0f / (exp(size + size) + 1.0f);
  return size < 0.625f ? near : copysign(far, x);
}

// Near 0 a polynomial in x^2; beyond, 1 - exp(polynomial in |x|).
LF_INLINE Vf erf(Vf x) {
  const Vf t = abs(x), s = x * x;
  Vf p = splat(-5.96761703e-4f);
  p = p * s + 4.99119423e-3f;
  p = p * s - 2.67681349e-2f;
  p = p * s + 1.12819925e-1f;
  p = p * s - 3.76125336e-1f;
  p = p * s + 1.28379166e-1f;
  const Vf near = p * x + x;
  Vf q = splat(-1.72853470e-5f) * t + 3.83197126e-4f;
  const Vf u = splat(-3.88396438e-3f) * t + 2.42546219e-2f;
  q = q * s + u;
  q = q * t - 1.06777877e-1f;
  q = q * t - 6.34846687e-1f;
  q = q * t - 1.28717512e-1f;
  q = q * t - t;
  const Vf far = 1.0f - exp(q);
  return t > 0.927734375f ? copysign(far, x) : near;
}

// --- activations and their derivatives, for Vf and Vd alike -------------------------------------------------------------

template <class V>
LF_INLINE V sigmoid(V x) {
  return 1 / (1 + exp(-x));
}
#if LF_ISA == LF_ISA_AVX512
// One step of Newton's from the estimate of 1 / d, which is right already where d is infinite.
LF_INLINE Vf sigmoid(Vf x) {
  const Vf d = 1 + exp(-x);
  const __m512 estimate = _mm512_maskz_rcp14_ps(0xffff, reinterpret_cast<__m512>(d));
  const Vf step = 2 - d * reinterpret_cast<Vf>(estimate);
  const __m512 infinity = _mm512_set1_ps(__builtin_inff());
  const __mmask16 finite = _mm512_cmp_ps_mask(reinterpret_cast<__m512>(d), infinity, _CMP_NEQ_UQ);
  return reinterpret_cast<Vf>(_mm512_mask_mul_ps(estimate, finite, estimate, reinterpret_cast<__m512>(step)));
}
#endif
template <class V>
LF_INLINE V gelu_tanh(V x) {
  // (1 + tanh u) / 2 = sigmoid(2 u): no digits cancel for negative x, and no second branch.
  const V u = constant<V>(1.5957691216057308) * (x + constant<V>(0.044715) * x * x * x);
  return x * sigmoid(u);
}
template <class V>
LF_INLINE V gelu_tanh_derivative(V x) {
  const V square = x * x;
  // The same sigmoid as in gelu_tanh: computed once where both are wanted.
  const V s = sigmoid(constant<V>(1.5957691216057308) * (x + constant<V>(0.044715) * x * x * x));
  const V du = constant<V>(1.5957691216057308) + constant<V>(1.5957691216057308 * 3 * 0.044715) * square;
  return s * (1 + x * (1 - s) * du);
}
template <class V>
LF_INLINE V gelu_erf(V x) {
  return constant<V>(0.5) * x * (1 + erf(x * constant<V>(0.7071067811865476)));
}
template <class V>
LF_INLINE V gelu_erf_derivative(V x) {
  const V density = constant<V>(0.3989422804014327) * exp(constant<V>(-0.5) * x * x);
  return constant<V>(0.5) * (1 + erf(x * constant<V>(0.7071067811865476))) + x * density;
}
template <class V>
LF_INLINE V silu(V x) {
  return x * sigmoid(x);
}
template <class V>
LF_INLINE V silu_derivative(V x) {
  const V s = sigmoid(x);
  return s * (1 + x * (1 - s));
}
template <class V>
LF_INLINE V relu(V x) {
  return x < 0 ? V{} : x;  // NaN stays NaN
}
template <class V>
LF_INLINE V relu_derivative(V x) {
  return x <= 0 ? V{} : constant<V>(1);
}

}  // namespace
}  // namespace lf
