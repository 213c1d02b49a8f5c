// Elementwise functions of one tensor, y = f(x), and their gradients dx = dy f'(x), all from the list in
// api/elementwise.h; and scale: y = a x + b with two numbers. Shapes are free. Bound by the bytes, except where the
// function is costly.
#include "api/elementwise.h"
#ifdef LF_SCHEMA_PASS
#include <cstring>

#include "core/op.h"

namespace lf {
namespace {

enum Formats { floating, numbers };

template <Formats formats>
void forward_shape(OpCall& call) {
  const DType dtype = call.in(0).dtype;
  if (dtype == DType::kBool || (formats == floating && !is_floating(dtype))) {
    call.fail_hint(kDType, "cast it first", "x is %s, needs %s", dtype_name(dtype),
                   formats == floating ? "f32, f16, bf16 or f64" : "numbers");
  }
  call.output_like(call.in(0));
}

void backward_shape(OpCall& call) {
  call.check_floating(0);
  call.check_same_dtype(0, 1);
  call.check_same_shape(0, 1);
  call.output_like(call.in(0));
}

#define LF_UNARY_PLAIN(op, formats, flops, forward) \
  LF_OP({.name = #op, .inputs = {{"x"}}, .attrs = {}, .shape = forward_shape<formats>, .cost = io_cost<flops>})
#define LF_UNARY(op, formats, flops, forward, saved, backward_flops, backward) \
  LF_UNARY_PLAIN(op, formats, flops, forward)                                  \
  LF_OP({.name = #op "_backward",                                              \
         .inputs = {{"grad"}, {#saved}},                                       \
         .attrs = {},                                                          \
         .shape = backward_shape,                                              \
         .cost = io_cost<backward_flops>})
LF_UNARY_OPS(LF_UNARY)
LF_UNARY_PLAIN_OPS(LF_UNARY_PLAIN)

constexpr double kLastWhole = 9007199254740992.0;  // beyond 2^53 doubles leave out whole numbers

LF_OP({.name = "scale",
       .inputs = {{"x"}},
       .attrs = {{"factor", AttrType::kNumber}, {"offset", AttrType::kNumber}},
       .shape =
           [](OpCall& call) {
             forward_shape<numbers>(call);
             if (is_floating(call.in(0).dtype)) return;
             for (int i = 0; i < 2; ++i) {
               const double value = call.number(i);
               if (value >= -kLastWhole && value <= kLastWhole && value == static_cast<double>(static_cast<int64_t>(value))) {
                 continue;
               }
               call.fail_hint(kArgument, "cast x to f32 first, or use a whole number", "%s is %g and x is %s", call.op->attrs[i].name,
                              value, dtype_name(call.in(0).dtype));
             }
           },
       .cost = io_cost<2>})

}  // namespace
}  // namespace lf
#else
#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/dtype_dispatch.h"
#include "ops/elementwise_math.h"

namespace lf {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements

#define LF_UNARY_FUNCTOR(op, expression) \
  struct op##_of {                       \
    template <class V>                   \
    static LF_INLINE V apply(V x) {      \
      return expression;                 \
    }                                    \
  };
#define LF_UNARY(op, formats, flops, forward, saved, backward_flops, backward) \
  LF_UNARY_FUNCTOR(op, forward)                                                \
  struct op##_gradient_of {                                                    \
    template <class V>                                                         \
    static LF_INLINE V apply(V g, V s) {                                       \
      return backward;                                                         \
    }                                                                          \
  };
#define LF_UNARY_PLAIN(op, formats, flops, forward) LF_UNARY_FUNCTOR(op, forward)
LF_UNARY_OPS(LF_UNARY)
LF_UNARY_PLAIN_OPS(LF_UNARY_PLAIN)
#undef LF_UNARY
#undef LF_UNARY_PLAIN

template <class F, class T>
void map_floating(const TensorView& in, const TensorView& out) {
  const T* x = in.as<T>();
  T* y = out.as<T>();
  cpu::parallel_for(in.numel, kGrain, [=](int64_t begin, int64_t end) {
    for_lanes<T>(end - begin, [=](int64_t i, int64_t n) {
      store_some(y + begin + i, F::apply(load_some(x + begin + i, n)), n);
    });
  });
}

// Kernels are named by the formats column of the list.
template <class F>
int32_t floating(const KernelArgs* args) {
  visit_floating(args->inputs[0].dtype, [&](auto t) { map_floating<F, decltype(t)>(args->inputs[0], args->outputs[0]); });
  return kOk;
}

template <class F>
int32_t numbers(const KernelArgs* args) {
  const TensorView &in = args->inputs[0], &out = args->outputs[0];
  visit_integer(in.dtype, [&](auto t) {
    using T = decltype(t);
    const T* x = in.as<T>();
    T* y = out.as<T>();
    cpu::parallel_for(in.numel, kGrain, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = static_cast<T>(F::apply(widened(x[i])));
    });
  });
  return floating<F>(args);
}

template <class F>
int32_t backward(const KernelArgs* args) {
  visit_floating(args->inputs[0].dtype, [&](auto t) {
    using T = decltype(t);
    const T *g = args->inputs[0].as<T>(), *s = args->inputs[1].as<T>();
    T* dx = args->outputs[0].as<T>();
    cpu::parallel_for(args->inputs[0].numel, kGrain, [=](int64_t begin, int64_t end) {
      for_lanes<T>(end - begin, [=](int64_t i, int64_t n) {
        store_some(dx + begin + i, F::apply(load_some(g + begin + i, n), load_some(s + begin + i, n)), n);
      });
    });
  });
  return kOk;
}

int32_t scale(const KernelArgs* args) {
  const TensorView &in = args->inputs[0], &out = args->outputs[0];
  const double factor = args->number(0), offset = args->number(1);
  visit_floating(in.dtype, [&](auto t) {
    using T = decltype(t);
    using V = typename Lanes<T>::V;
    const T* x = in.as<T>();
    T* y = out.as<T>();
    const V a = constant<V>(factor), b = constant<V>(offset);
    cpu::parallel_for(in.numel, kGrain, [=](int64_t begin, int64_t end) {
      for_lanes<T>(end - begin, [=](int64_t i, int64_t n) {
        store_some(y + begin + i, load_some(x + begin + i, n) * a + b, n);
      });
    });
  });
  visit_integer(in.dtype, [&](auto t) {
    using T = decltype(t);
    const T* x = in.as<T>();
    T* y = out.as<T>();
    const auto a = static_cast<uint64_t>(static_cast<int64_t>(factor)), b = static_cast<uint64_t>(static_cast<int64_t>(offset));
    cpu::parallel_for(in.numel, kGrain, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = static_cast<T>(static_cast<uint64_t>(x[i]) * a + b);
    });
  });
  return kOk;
}

}  // namespace

#define LF_UNARY_PLAIN(op, formats, flops, f) LF_CPU_KERNEL(op, formats<op##_of>)
#define LF_UNARY(op, formats, flops, f, saved, backward_flops, b) \
  LF_UNARY_PLAIN(op, formats, flops, f)                           \
  LF_CPU_KERNEL(op##_backward, backward<op##_gradient_of>)
LF_UNARY_OPS(LF_UNARY)
LF_UNARY_PLAIN_OPS(LF_UNARY_PLAIN)
LF_CPU_KERNEL(scale, scale)

}  // namespace lf
#endif
