// Elementwise update rules, once for host and device. A rule has kStates state tensors beside the parameter, kConstants
// constants made from the operator's attributes (without `count`) in double precision, and update(p, g, s, c): it changes
// the parameter p and the states s from the gradient g. V is a vector of floats or doubles on the host, a float or double on
// a device; sqrt, max, min, abs, sign and constant<V> must have been declared for it.
// Sources: adam, Kingma and Ba, arXiv 1412.6980; amsgrad, Reddi et al. 2018; lion, Chen et al., arXiv 2302.06675; sophia, Liu
// et al., arXiv 2305.14342; schedule_free_adamw, Defazio et al., arXiv 2405.15682; nesterov, Sutskever et al., ICML 2013.
#pragma once
#include "api/kernel.h"

#ifdef __CUDACC__
#define LF_RULE __host__ __device__ LF_INLINE
#else
#define LF_RULE LF_INLINE
#endif

namespace lf {
namespace {
namespace rules {

// Attributes: lr, beta1, beta2, eps, l2 (added to the gradient), weight_decay (taken off the parameter), step.
struct Adam {
  static constexpr int kStates = 2, kConstants = 8;
  static LF_INLINE void constants(const double* a, double* c) {
    const double correction1 = 1 - __builtin_pow(a[1], a[6]), correction2 = 1 - __builtin_pow(a[2], a[6]);
    c[0] = a[0] / correction1;
    c[1] = 1 - a[1];
    c[2] = a[2];
    c[3] = 1 - a[2];
    c[4] = a[3];
    c[5] = __builtin_sqrt(correction2);
    c[6] = a[4];
    c[7] = 1 - a[0] * a[5];
  }
  template <class V>
  static LF_RULE void update(V& p, V g, V* s, const V* c) {
    const V d = g + p * c[6];
    s[0] += (d - s[0]) * c[1];
    s[1] = s[1] * c[2] + d * d * c[3];
    p = p * c[7] - c[0] * (s[0] / (sqrt(s[1]) / c[5] + c[4]));
  }
};

// As adam, with the largest second moment so far in the denominator.
struct Amsgrad {
  static constexpr int kStates = 3, kConstants = Adam::kConstants;
  static LF_INLINE void constants(const double* a, double* c) { Adam::constants(a, c); }
  template <class V>
  static LF_RULE void update(V& p, V g, V* s, const V* c) {
    const V d = g + p * c[6];
    s[0] += (d - s[0]) * c[1];
    s[1] = s[1] * c[2] + d * d * c[3];
    s[2] = max(s[2], s[1]);
    p = p * c[7] - c[0] * (s[0] / (sqrt(s[2]) / c[5] + c[4]));
  }
};

// p += lr sign(...): the momentum is updated after its use, with the other beta. Attributes: lr, beta1, beta2, weight_decay.
struct Lion {
  static constexpr int kStates = 1, kConstants = 6;
  static LF_INLINE void constants(const double* a, double* c) {
    c[0] = a[0];
    c[1] = a[1];
    c[2] = 1 - a[1];
    c[3] = a[2];
    c[4] = 1 - a[2];
    c[5] = 1 - a[0] * a[3];
  }
  template <class V>
  static LF_RULE void update(V& p, V g, V* s, const V* c) {
    p = p * c[5] - c[0] * sign(s[0] * c[1] + g * c[2]);
    s[0] = s[0] * c[3] + g * c[4];
  }
};

// The momentum over the curvature s[1], cut off at 1; s[1] itself is left alone. Attributes: lr, beta1, scale (rho times the
// tokens that the curvature's mean was over), weight_decay.
struct Sophia {
  static constexpr int kStates = 2, kConstants = 4;
  static LF_INLINE void constants(const double* a, double* c) {
    c[0] = a[0];
    c[1] = 1 - a[1];
    c[2] = a[2];
    c[3] = 1 - a[0] * a[3];
  }
  template <class V>
  static LF_RULE void update(V& p, V g, V* s, const V* c) {
    s[0] += (g - s[0]) * c[1];
    const V size = min(abs(s[0]) / (c[2] * s[1] + constant<V>(1e-15)), constant<V>(1));
    p = p * c[3] - c[0] * sign(s[0]) * size;
  }
};

// p is y, s[0] is z, s[1] the second moment. Attributes: lr, beta1, beta2, eps, weight_decay, average (the share of z in the
// new average x), step.
struct ScheduleFreeAdamw {
  static constexpr int kStates = 2, kConstants = 8;
  static LF_INLINE void constants(const double* a, double* c) {
    c[0] = a[0];
    c[1] = a[2];
    c[2] = 1 - a[2];
    c[3] = a[3];
    c[4] = __builtin_sqrt(1 - __builtin_pow(a[2], a[6]));
    c[5] = a[4];
    c[6] = a[5];
    c[7] = a[0] * (a[1] * (1 - a[5]) - 1);
  }
  template <class V>
  static LF_RULE void update(V& p, V g, V* s, const V* c) {
    s[1] = s[1] * c[1] + g * g * c[2];
    const V d = g / (sqrt(s[1]) / c[4] + c[3]) + p * c[5];
    p += (s[0] - p) * c[6] + d * c[7];
    s[0] -= c[0] * d;
  }
};

// Nesterov's method with the rate inside of the velocity s[0]; p is the look-ahead point. Attributes: lr, momentum, l2.
struct Nesterov {
  static constexpr int kStates = 1, kConstants = 3;
  static LF_INLINE void constants(const double* a, double* c) {
    for (int i = 0; i < 3; ++i) c[i] = a[i];
  }
  template <class V>
  static LF_RULE void update(V& p, V g, V* s, const V* c) {
    const V step = (g + p * c[2]) * c[0];
    s[0] = s[0] * c[1] - step;
    p += s[0] * c[1] - step;
  }
};

// p = decay p + factor g. Attributes: decay, factor.
struct ScaledAdd {
  static constexpr int kStates = 0, kConstants = 2;
  static LF_INLINE void constants(const double* a, double* c) {
    c[0] = a[0];
    c[1] = a[1];
  }
  template <class V>
  static LF_RULE void update(V& p, V g, V*, const V* c) {
    p = p * c[0] + g * c[1];
  }
};

// p moves by a share of its way to g. Attribute: rate.
struct Lerp {
  static constexpr int kStates = 0, kConstants = 1;
  static LF_INLINE void constants(const double* a, double* c) { c[0] = a[0]; }
  template <class V>
  static LF_RULE void update(V& p, V g, V*, const V* c) {
    p += (g - p) * c[0];
  }
};

// p moves by a share of its way to g * g. Attribute: rate.
struct LerpSquare {
  static constexpr int kStates = 0, kConstants = 1;
  static LF_INLINE void constants(const double* a, double* c) { c[0] = a[0]; }
  template <class V>
  static LF_RULE void update(V& p, V g, V*, const V* c) {
    p += (g * g - p) * c[0];
  }
};

}  // namespace rules

// op(operator, rule, FLOPs an element, attributes)
#define LF_OPTIMIZER_RULES(op)                                                            \
  op(adam, Adam, 17, "lr", "beta1", "beta2", "eps", "l2", "weight_decay", "step")         \
  op(amsgrad, Amsgrad, 18, "lr", "beta1", "beta2", "eps", "l2", "weight_decay", "step")   \
  op(lion, Lion, 10, "lr", "beta1", "beta2", "weight_decay")                              \
  op(sophia, Sophia, 12, "lr", "beta1", "scale", "weight_decay")                          \
  op(schedule_free_adamw, ScheduleFreeAdamw, 17, "lr", "beta1", "beta2", "eps", "weight_decay", "average", "step") \
  op(nesterov, Nesterov, 8, "lr", "momentum", "l2")                                       \
  op(scaled_add, ScaledAdd, 3, "decay", "factor")                                         \
  op(lerp, Lerp, 3, "rate")                                                               \
  op(lerp_square, LerpSquare, 4, "rate")

}  // namespace
}  // namespace lf
