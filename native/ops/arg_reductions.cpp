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
    constexpr int64_t kBlock = 512;
    for (int64_t at = 0; at < n; at += kBlock) {
      const int64_t end = at + kBlock < n ? at + kBlock : n;
      // Whole blocks without a better element are the rule, and are recognised in vectors.
      if (best.number >= 0 && !any_better(p + at, end - at, best.value)) continue;
      for (int64_t i = at; i < end; ++i) take(best, value_of(p[i]), first + i);
    }
  }
  static LF_INLINE bool any_better(const T* p, int64_t n, Value best) {
    if constexpr (kIsFloating<T>) {
      using V = typename Lanes<T>::V;
      const V limit = V{} + best;
      auto found = limit != limit;  // nothing is better than NaN
      if (best != best) return false;
      for_lanes<T>(n, [&](int64_t i, int64_t k) {
        // The missing lanes of the last vector repeat the limit.
        V x = limit;
        if (k == Lanes<T>::n) x = load(p + i);
        else for (int64_t lane = 0; lane < k; ++lane) x[lane] = get(p + i + lane);
        found |= (largest ? x > limit : x < limit) | (x != x);
      });
      for (int lane = 0; lane < Lanes<T>::n; ++lane) {
        if (found[lane]) return true;
      }
      return false;
    } else {
      bool found = false;
      for (int64_t i = 0; i < n; ++i) found |= largest ? p[i] > best : p[i] < best;
      return found;
    }
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
