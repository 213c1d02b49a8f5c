// argmax, argmin over any set of axes: the number (i64, row-major over the reduced axes) of the first best element. NaN
// counts as best. Bound by the bytes read.
#include "ops/reduction.h"
#ifdef LF_SCHEMA_PASS

namespace lf {
namespace {

void shape(OpCall& call) {
  if (call.in(0).dtype == DType::kBool) call.fail_hint(kDType, "cast it to u8 first", "x is bool, needs numbers");
  reduced_output(call, DType::kI64, true);
}

#define LF_REDUCTION(op)                                                          \
  LF_OP({.name = #op,                                                             \
         .inputs = {{"x"}},                                                       \
         .attrs = {{"axes", AttrType::kIntegers}, {"keepdims", AttrType::kFlag}}, \
         .shape = shape,                                                          \
         .cost = reduction_cost<1>,                                               \
         .workspace = reduction_workspace})
LF_REDUCTION(argmax)
LF_REDUCTION(argmin)

}  // namespace
}  // namespace lf
#else
#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/dtype_dispatch.h"

namespace lf {
namespace {

template <class T>
LF_INLINE auto value_of(T x) {
  if constexpr (kIsHalf<T>) return to_float(x);
  else return x;
}

template <class T, bool largest>
struct Best {
  using Value = decltype(value_of(T{}));
  struct Partial {
    Value value;
    int64_t number;  // -1: no element yet
  };
  static LF_INLINE bool better(Value x, Value best) {
    return (largest ? x > best : x < best) || (x != x && best == best);
  }
  static LF_INLINE Partial initial() { return {Value{}, -1}; }
  static LF_INLINE void take(Partial& best, Value x, int64_t number) {
    if (best.number < 0 || better(x, best.value)) best = {x, number};
  }
  static LF_INLINE void join(Partial& best, Partial later) {
    if (later.number >= 0) take(best, later.value, later.number);
  }
  static void stretch(const T* p, int64_t n, int64_t first, Partial& best) {
    if constexpr (kIsFloating<T>) {
      constexpr int64_t kBlock = 512;  // elements whose best is found in vectors, before its place is looked for
      for (int64_t at = 0; at < n; at += kBlock) {
        const int64_t count = at + kBlock < n ? kBlock : n - at;
        const Value top = best_of(p + at, count);
        if (best.number >= 0 && !better(top, best.value)) continue;
        int64_t i = at;
        while (top == top ? value_of(p[i]) != top : value_of(p[i]) == value_of(p[i])) ++i;
        best = {top, first + i};
      }
    } else {
      for (int64_t i = 0; i < n; ++i) take(best, value_of(p[i]), first + i);
    }
  }
  template <class X>
  static LF_INLINE X choose(X best, X x) {
    if constexpr (largest) return ((x > best) | (x != x)) ? x : best;
    else return ((x < best) | (x != x)) ? x : best;
  }
  // n >= 1
  static LF_INLINE Value best_of(const T* p, int64_t n) {
    constexpr int64_t kLanes = Lanes<T>::n;
    Value top = get(p);
    if (n < kLanes) {
      for (int64_t i = 1; i < n; ++i) top = choose(top, static_cast<Value>(get(p + i)));
      return top;
    }
    auto a = load(p), b = a, c = a, d = a;
    int64_t i = kLanes;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
      a = choose(a, load(p + i));
      b = choose(b, load(p + i + kLanes));
      c = choose(c, load(p + i + 2 * kLanes));
      d = choose(d, load(p + i + 3 * kLanes));
    }
    for (; i + kLanes <= n; i += kLanes) a = choose(a, load(p + i));
    a = choose(choose(a, b), choose(c, d));
    a = choose(a, load(p + n - kLanes));  // the rest; some elements a second time
    for (int64_t k = 0; k < kLanes; ++k) top = choose(top, static_cast<Value>(a[k]));
    return top;
  }
  static void rows(const T* p, int64_t step, int64_t n, int64_t columns, int64_t first, Partial* best) {
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t i = 0; i < columns; ++i) take(best[i], value_of(p[row * step + i]), first + row);
    }
  }
  static LF_INLINE void finish(Partial best, int64_t, int64_t& out) { out = best.number; }
};

template <bool largest>
int32_t arg(const KernelArgs* args) {
  visit_numbers(args->inputs[0].dtype, [&](auto t) { reduce<Best<decltype(t), largest>, decltype(t), int64_t>(args); });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(argmax, arg<true>)
LF_CPU_KERNEL(argmin, arg<false>)

}  // namespace lf
#endif
