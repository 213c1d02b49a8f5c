// Elementwise functions of two tensors with NumPy broadcasting, z = f(x, y): arithmetic, comparisons (bool results), logic,
// all from the lists in api/elementwise.h; and logical_not. Integers wrap around. Bound by the bytes.
#include "api/elementwise.h"
#include "ops/broadcast.h"
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

void arithmetic_shape(OpCall& call) {
  call.check_same_dtype(0, 1);
  if (call.in(0).dtype == DType::kBool) {
    call.fail_hint(kDType, "cast it first, or use logicalAnd and the like", "x is bool, needs numbers");
  }
  call.output_like(broadcast_shape(call, 0, 2));
}
void floating_shape(OpCall& call) {
  call.check_floating(0);
  arithmetic_shape(call);
}
void comparison_shape(OpCall& call) {
  call.check_same_dtype(0, 1);
  call.output_like(broadcast_shape(call, 0, 2), DType::kBool);
}
void logical_shape(OpCall& call) {
  call.check_dtype(0, DType::kBool);
  comparison_shape(call);
}

#define LF_BINARY(op, shape_rule) \
  LF_OP({.name = #op, .inputs = {{"x"}, {"y"}}, .attrs = {}, .shape = shape_rule, .cost = io_cost<1>})
#define LF_ARITHMETIC(op, z) LF_BINARY(op, arithmetic_shape)
#define LF_FLOATING(op, z) LF_BINARY(op, floating_shape)
#define LF_COMPARISON(op, sign) LF_BINARY(op, comparison_shape)
#define LF_LOGICAL(op, sign) LF_BINARY(op, logical_shape)
LF_BINARY_OPS(LF_ARITHMETIC)
LF_BINARY_FLOATING_OPS(LF_FLOATING)
LF_COMPARISON_OPS(LF_COMPARISON)
LF_LOGICAL_OPS(LF_LOGICAL)

LF_OP({.name = "logical_not",
       .inputs = {{"x"}},
       .attrs = {},
       .shape =
           [](OpCall& call) {
             call.check_dtype(0, DType::kBool);
             call.output_like(call.in(0));
           },
       .cost = io_cost<1>})

}  // namespace
}  // namespace lf
#else
#include "cpu/kernel.h"
#include "ops/dtype_dispatch.h"
#include "ops/elementwise_math.h"

namespace lf {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements

#define LF_ARITHMETIC(op, z)             \
  struct op##_of {                       \
    template <class V>                   \
    static LF_INLINE V apply(V x, V y) { \
      return z;                          \
    }                                    \
  };
LF_BINARY_OPS(LF_ARITHMETIC)
LF_BINARY_FLOATING_OPS(LF_ARITHMETIC)
#define LF_COMPARISON(op, sign)                \
  struct op##_of {                             \
    template <class S>                         \
    static LF_INLINE uint8_t apply(S x, S y) { \
      return x sign y;                         \
    }                                          \
  };
LF_COMPARISON_OPS(LF_COMPARISON)
LF_LOGICAL_OPS(LF_COMPARISON)

// One row; an operand with step 0 is one number for all of it.
template <class F, class T>
void arithmetic_row(const T* x, int64_t x_step, const T* y, int64_t y_step, T* z, int64_t n) {
  if constexpr (kIsFloating<T>) {
    using V = typename Lanes<T>::V;
    const auto whole = [=](auto&& a, auto&& b) {
      for_lanes<T>(n, [&](int64_t i, int64_t count) { store_some(z + i, F::apply(a(i, count), b(i, count)), count); });
    };
    const auto run_x = [=](int64_t i, int64_t count) { return load_some(x + i, count); };
    const auto run_y = [=](int64_t i, int64_t count) { return load_some(y + i, count); };
    if (x_step && y_step) return whole(run_x, run_y);
    if (y_step) {
      const V one = V{} + get(x);
      return whole([=](int64_t, int64_t) { return one; }, run_y);
    }
    const V one = V{} + get(y);
    if (x_step) return whole(run_x, [=](int64_t, int64_t) { return one; });
    const V other = V{} + get(x);
    whole([=](int64_t, int64_t) { return other; }, [=](int64_t, int64_t) { return one; });
  } else {
    if (x_step && y_step) {
      for (int64_t i = 0; i < n; ++i) z[i] = static_cast<T>(F::apply(widened(x[i]), widened(y[i])));
    } else {
      for (int64_t i = 0; i < n; ++i) z[i] = static_cast<T>(F::apply(widened(x[i * x_step]), widened(y[i * y_step])));
    }
  }
}

// What comparisons compare: floats and doubles, or integers as they are.
template <class T>
LF_INLINE auto comparable(T x) {
  if constexpr (kIsHalf<T>) return to_float(x);
  else if constexpr (kIsSame<T, Bool>) return x.value;
  else return x;
}

template <class F, class T>
void comparison_row(const T* x, int64_t x_step, const T* y, int64_t y_step, uint8_t* z, int64_t n) {
  if (x_step && y_step) {
    for (int64_t i = 0; i < n; ++i) z[i] = F::apply(comparable(x[i]), comparable(y[i]));
  } else if (x_step) {
    const auto b = comparable(*y);
    for (int64_t i = 0; i < n; ++i) z[i] = F::apply(comparable(x[i]), b);
  } else {
    for (int64_t i = 0; i < n; ++i) z[i] = F::apply(comparable(x[0]), comparable(y[i * y_step]));
  }
}

template <class T, class Z>
using Row = void (*)(const T* x, int64_t x_step, const T* y, int64_t y_step, Z* z, int64_t n);

// One walk for all functions of a dtype: they differ by the call for each row, and compile once each.
template <class T, class Z>
int32_t for_pairs(const KernelArgs* args, Row<T, Z> row) {
  const Walk walk = plan_walk(args->inputs, 2, args->outputs[0]);
  const T *x = args->inputs[0].as<T>(), *y = args->inputs[1].as<T>();
  Z* z = args->outputs[0].as<Z>();
  const int64_t x_step = walk.step[0][0], y_step = walk.step[1][0];
  for_rows(walk, args->outputs[0].numel, kGrain, [&](const int64_t* offsets, int64_t at, int64_t n) {
    row(x + offsets[0], x_step, y + offsets[1], y_step, z + at, n);
  });
  return kOk;
}

template <class F>
int32_t floating(const KernelArgs* args) {
  visit_floating(args->inputs[0].dtype, [&](auto t) {
    using T = decltype(t);
    for_pairs<T, T>(args, arithmetic_row<F, T>);
  });
  return kOk;
}
template <class F>
int32_t arithmetic(const KernelArgs* args) {
  visit_integer(args->inputs[0].dtype, [&](auto t) {
    using T = decltype(t);
    for_pairs<T, T>(args, arithmetic_row<F, T>);
  });
  return floating<F>(args);
}
template <class F>
int32_t comparison(const KernelArgs* args) {
  visit_all(args->inputs[0].dtype, [&](auto t) {
    using T = decltype(t);
    for_pairs<T, uint8_t>(args, comparison_row<F, T>);
  });
  return kOk;
}

template <class F>
int32_t logical(const KernelArgs* args) {
  return for_pairs<Bool, uint8_t>(args, comparison_row<F, Bool>);
}

int32_t logical_not(const KernelArgs* args) {
  const uint8_t* x = args->inputs[0].as<uint8_t>();
  uint8_t* y = args->outputs[0].as<uint8_t>();
  cpu::parallel_for(args->inputs[0].numel, kGrain * 4, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = !x[i];
  });
  return kOk;
}

}  // namespace

#undef LF_ARITHMETIC
#undef LF_COMPARISON
#define LF_ARITHMETIC(op, z) LF_CPU_KERNEL(op, arithmetic<op##_of>)
#define LF_FLOATING(op, z) LF_CPU_KERNEL(op, floating<op##_of>)
#define LF_COMPARISON(op, sign) LF_CPU_KERNEL(op, comparison<op##_of>)
#define LF_LOGICAL(op, sign) LF_CPU_KERNEL(op, logical<op##_of>)
LF_BINARY_OPS(LF_ARITHMETIC)
LF_BINARY_FLOATING_OPS(LF_FLOATING)
LF_COMPARISON_OPS(LF_COMPARISON)
LF_LOGICAL_OPS(LF_LOGICAL)
LF_CPU_KERNEL(logical_not, logical_not)

}  // namespace lf
#endif
