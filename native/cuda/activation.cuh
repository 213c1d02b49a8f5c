// Activations and their derivatives on a device, for float and double, as the CPU's (native/cpu/simd.h).
#pragma once
#include "cuda/library.h"

namespace lf::cuda {

template <class A>
__device__ __forceinline__ A logistic(A x) {
  return 1 / (1 + exp(-x));
}
template <class A>
__device__ __forceinline__ A activate(Activation kind, A x) {
  switch (kind) {
    case Activation::kGeluTanh: {
      const A u = A(1.5957691216057308) * (x + A(0.044715) * x * x * x);  // (1 + tanh(u / 2)) / 2 = logistic(u)
      return x * logistic(u);
    }
    case Activation::kGeluErf: return A(0.5) * x * (1 + erf(x * A(0.7071067811865476)));
    case Activation::kSilu: return x * logistic(x);
    case Activation::kRelu: return x < 0 ? A(0) : x;  // NaN stays NaN
    default: return x;
  }
}
template <class A>
__device__ __forceinline__ A activation_derivative(Activation kind, A x) {
  switch (kind) {
    case Activation::kGeluTanh: {
      const A u = A(1.5957691216057308) * (x + A(0.044715) * x * x * x);
      const A s = logistic(u), du = A(1.5957691216057308) * (1 + A(3 * 0.044715) * x * x);
      return s * (1 + x * (1 - s) * du);
    }
    case Activation::kGeluErf:
      return A(0.5) * (1 + erf(x * A(0.7071067811865476))) + x * A(0.3989422804014327) * exp(A(-0.5) * x * x);
    case Activation::kSilu: {
      const A s = logistic(x);
      return s * (1 + x * (1 - s));
    }
    case Activation::kRelu: return x <= 0 ? A(0) : A(1);
    default: return A(1);
  }
}

}  // namespace lf::cuda
