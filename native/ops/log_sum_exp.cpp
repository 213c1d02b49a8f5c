// log_sum_exp over any set of axes: log(sum(exp(x))) = m + log(sum(exp(x - m))) with the maximum m, found block by block
// in one pass. The sums of blocks are kept in f64. FLOPs: 3 per element (difference, exponential, addition).
#include "ops/reduction.h"
#ifdef LF_SCHEMA_PASS

namespace lf {
namespace {

LF_OP({.name = "log_sum_exp",
       .inputs = {{"x"}},
       .attrs = {{"axes", AttrType::kIntegers}, {"keepdims", AttrType::kFlag}},
       .shape =
           [](OpCall& call) {
             call.check_floating(0);
             reduced_output(call, call.in(0).dtype, false);
           },
       .cost = reduction_cost<3>,
       .workspace = reduction_workspace})

}  // namespace
}  // namespace lf
#else
#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/dtype_dispatch.h"

namespace lf {
namespace {

template <class T>
struct LogSumExp {
  using V = typename Lanes<T>::V;
  using Scalar = typename Lanes<T>::Scalar;
  static constexpr int64_t kLanes = Lanes<T>::n;
  static constexpr int64_t kBlock = 1024;  // elements of a stretch that share one maximum
  static constexpr int64_t kRows = 64;     // rows likewise
  struct Partial {
    double max, sum;  // sum of exp(x - max)
  };
  static LF_INLINE Partial initial() { return {-__builtin_inf(), 0}; }
  template <class X>
  static LF_INLINE X larger(X a, X b) {
    return ((b > a) | (b != b)) ? b : a;
  }
  static LF_INLINE void join(Partial& a, Partial b) {
    if (b.max == -__builtin_inf()) return;
    const double max = larger(a.max, b.max);
    if (max == __builtin_inf()) {  // infinity minus itself has no value
      a = {max, 1};
      return;
    }
    a = {max, a.sum * __builtin_exp(a.max - max) + b.sum * __builtin_exp(b.max - max)};
  }
  static void stretch(const T* p, int64_t n, int64_t, Partial& partial) {
    for (int64_t at = 0; at < n; at += kBlock) {
      const int64_t end = at + kBlock < n ? at + kBlock : n;
      Scalar max = -static_cast<Scalar>(__builtin_inf());
      int64_t i = at;
      V best = V{} + max, other = best;  // two chains: one would wait for its own comparison
      for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
        best = larger(best, load(p + i));
        other = larger(other, load(p + i + kLanes));
      }
      for (; i + kLanes <= end; i += kLanes) best = larger(best, load(p + i));
      best = larger(best, other);
      for (int64_t k = 0; k < kLanes; ++k) max = larger(max, static_cast<Scalar>(best[k]));
      for (; i < end; ++i) max = larger(max, static_cast<Scalar>(get(p + i)));
      V sum{};
      const V shift = V{} + max;
      for (i = at; i + kLanes <= end; i += kLanes) sum += exp(load(p + i) - shift);
      double rest = 0;
      if (i < end) {
        const V last = exp(load(p + i, end - i) - shift);
        for (int64_t k = 0; k < end - i; ++k) rest += static_cast<double>(last[k]);
      }
      join(partial, {static_cast<double>(max), static_cast<double>(reduce_add(sum)) + rest});
    }
  }
  static void rows(const T* p, int64_t step, int64_t n, int64_t columns, int64_t, Partial* partials) {
    for (int64_t row = 0; row < n; row += kRows) {
      const int64_t end = row + kRows < n ? row + kRows : n;
      for_lanes<T>(columns, [=](int64_t i, int64_t count) {
        V max = V{} - static_cast<Scalar>(__builtin_inf()), sum{};
        for (int64_t r = row; r < end; ++r) max = larger(max, load_some(p + r * step + i, count));
        for (int64_t r = row; r < end; ++r) sum += exp(load_some(p + r * step + i, count) - max);
        for (int64_t k = 0; k < count; ++k) {
          join(partials[i + k], {static_cast<double>(max[k]), static_cast<double>(sum[k])});
        }
      });
    }
  }
  static LF_INLINE void finish(Partial partial, int64_t, T& out) {
    put(&out, static_cast<Scalar>(partial.max + __builtin_log(partial.sum)));
  }
};

int32_t log_sum_exp(const KernelArgs* args) {
  visit_floating(args->inputs[0].dtype, [&](auto t) { reduce<LogSumExp<decltype(t)>, decltype(t), decltype(t)>(args); });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(log_sum_exp, log_sum_exp)

}  // namespace lf
#endif
