// z = f(x, y) with broadcasting: arithmetic, comparisons (bool results) and logic of api/elementwise.h, and logical_not.
// Pointwise kernels (pointwise.cuh): bound by bytes, 256 threads a block, full occupancy.
#include "api/elementwise.h"
#include "cuda/elementwise_math.cuh"
#include "cuda/pointwise.cuh"

namespace lf::cuda {
namespace {

#define LF_ARITHMETIC(op, z)             \
  struct op##_of {                       \
    template <class V>                   \
    static LF_DEVICE V apply(V x, V y) { \
      return z;                          \
    }                                    \
  };
LF_BINARY_OPS(LF_ARITHMETIC)
LF_BINARY_FLOATING_OPS(LF_ARITHMETIC)
#define LF_COMPARISON(op, sign)                \
  struct op##_of {                             \
    template <class S>                         \
    static LF_DEVICE uint8_t apply(S x, S y) { \
      return x sign y;                         \
    }                                          \
  };
LF_COMPARISON_OPS(LF_COMPARISON)
LF_LOGICAL_OPS(LF_COMPARISON)
#undef LF_ARITHMETIC
#undef LF_COMPARISON

template <class F, class T>
struct Arithmetic {
  __device__ T operator()(T x, T y) const {
    if constexpr (std::is_integral_v<T>) return static_cast<T>(F::apply(widen(x), widen(y)));
    else return narrow<T>(F::apply(widen(x), widen(y)));
  }
};
template <class F, class T>
struct Comparison {
  __device__ uint8_t operator()(T x, T y) const {
    if constexpr (std::is_integral_v<T>) return F::apply(x, y);
    else return F::apply(widen(x), widen(y));
  }
};

template <template <class, class> class Apply, class F, class Z, class T>
int32_t launch(const KernelArgs* args) {
  return pointwise<Z, T, T>(args, Apply<F, T>{}, args->outputs[0], args->inputs[0], args->inputs[1]);
}
template <class F>
int32_t floating(const KernelArgs* args) {
  return dispatch_floating(args->inputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return launch<Arithmetic, F, T, T>(args);
  });
}
template <class F>
int32_t arithmetic(const KernelArgs* args) {
  return dispatch_numbers(args->inputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return launch<Arithmetic, F, T, T>(args);
  });
}
template <class F>
int32_t comparison(const KernelArgs* args) {
  return dispatch_numbers(args->inputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return launch<Comparison, F, uint8_t, T>(args);
  });
}
template <class F>
int32_t logical(const KernelArgs* args) {
  return launch<Comparison, F, uint8_t, uint8_t>(args);
}

struct Not {
  __device__ uint8_t operator()(uint8_t x) const { return !x; }
};
int32_t logical_not(const KernelArgs* args) {
  return pointwise<uint8_t, uint8_t>(args, Not{}, args->outputs[0], args->inputs[0]);
}

}  // namespace

#define LF_ARITHMETIC(op, z) LF_CUDA_KERNEL(op, arithmetic<op##_of>)
#define LF_FLOATING(op, z) LF_CUDA_KERNEL(op, floating<op##_of>)
#define LF_COMPARISON(op, sign) LF_CUDA_KERNEL(op, comparison<op##_of>)
#define LF_LOGICAL(op, sign) LF_CUDA_KERNEL(op, logical<op##_of>)
LF_BINARY_OPS(LF_ARITHMETIC)
LF_BINARY_FLOATING_OPS(LF_FLOATING)
LF_COMPARISON_OPS(LF_COMPARISON)
LF_LOGICAL_OPS(LF_LOGICAL)
LF_CUDA_KERNEL(logical_not, logical_not)

}  // namespace lf::cuda
