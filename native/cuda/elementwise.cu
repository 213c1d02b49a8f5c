// y = f(x) and dx = dy f'(x) for every unary function of api/elementwise.h; and scale: y = a x + b. Pointwise kernels
// (pointwise.cuh): bound by bytes, 256 threads a block, 28 to 47 registers: 5 to 8 blocks a multiprocessor.
#include "api/elementwise.h"
#include "cuda/elementwise_math.cuh"
#include "cuda/pointwise.cuh"

namespace lf::cuda {
namespace {

#define LF_UNARY_FUNCTOR(op, expression) \
  struct op##_of {                       \
    template <class V>                   \
    static LF_DEVICE V apply(V x) {      \
      return expression;                 \
    }                                    \
  };
#define LF_UNARY(op, formats, flops, forward, saved, backward_flops, backward) \
  LF_UNARY_FUNCTOR(op, forward)                                                \
  struct op##_gradient_of {                                                    \
    template <class V>                                                         \
    static LF_DEVICE V apply(V g, V s) {                                       \
      return backward;                                                         \
    }                                                                          \
  };
#define LF_UNARY_PLAIN(op, formats, flops, forward) LF_UNARY_FUNCTOR(op, forward)
LF_UNARY_OPS(LF_UNARY)
LF_UNARY_PLAIN_OPS(LF_UNARY_PLAIN)
#undef LF_UNARY
#undef LF_UNARY_PLAIN

template <class F, class T>
struct Floating {
  using Long = void;
  __device__ T operator()(T x) const { return narrow<T>(F::apply(widen(x))); }
  __device__ T operator()(T g, T s) const { return narrow<T>(F::apply(widen(g), widen(s))); }
};
template <class F, class T>
struct Whole {
  __device__ T operator()(T x) const { return static_cast<T>(F::apply(widen(x))); }
};

// Launchers are named by the formats column of the list.
template <class F>
int32_t floating(const KernelArgs* args) {
  return dispatch_floating(args->inputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return pointwise<T, T>(args, Floating<F, T>{}, args->outputs[0], args->inputs[0]);
  });
}
template <class F>
int32_t numbers(const KernelArgs* args) {
  if (is_floating(args->inputs[0].dtype)) return floating<F>(args);
  return dispatch_integer(args->inputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return pointwise<T, T>(args, Whole<F, T>{}, args->outputs[0], args->inputs[0]);
  });
}
template <class F>
int32_t backward(const KernelArgs* args) {
  return dispatch_floating(args->inputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return pointwise<T, T, T>(args, Floating<F, T>{}, args->outputs[0], args->inputs[0], args->inputs[1]);
  });
}

template <class T>
struct Scale {
  Acc<T> a, b;
  __device__ T operator()(T x) const { return narrow<T>(widen(x) * a + b); }
};
template <class T>
struct ScaleWhole {
  uint64_t a, b;
  __device__ T operator()(T x) const { return static_cast<T>(static_cast<uint64_t>(x) * a + b); }
};
int32_t scale(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &y = args->outputs[0];
  const double a = args->number(0), b = args->number(1);
  if (is_floating(x.dtype)) {
    return dispatch_floating(x.dtype, [&](auto tag) {
      using T = typename decltype(tag)::Type;
      return pointwise<T, T>(args, Scale<T>{static_cast<Acc<T>>(a), static_cast<Acc<T>>(b)}, y, x);
    });
  }
  const auto whole = [](double v) { return static_cast<uint64_t>(static_cast<int64_t>(v)); };
  return dispatch_integer(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return pointwise<T, T>(args, ScaleWhole<T>{whole(a), whole(b)}, y, x);
  });
}

}  // namespace

#define LF_UNARY_PLAIN(op, formats, flops, f) LF_CUDA_KERNEL(op, formats<op##_of>)
#define LF_UNARY(op, formats, flops, f, saved, backward_flops, b) \
  LF_UNARY_PLAIN(op, formats, flops, f)                           \
  LF_CUDA_KERNEL(op##_backward, backward<op##_gradient_of>)
LF_UNARY_OPS(LF_UNARY)
LF_UNARY_PLAIN_OPS(LF_UNARY_PLAIN)
LF_CUDA_KERNEL(scale, scale)

}  // namespace lf::cuda
