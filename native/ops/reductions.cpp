// sum, mean, prod, max, min over any set of axes. Sums of f32 and 16-bit formats run in f32 over at most 32 elements at a
// time and in f64 from there on, so their error does not grow with the length. Integers and bool: sum and prod give i64
// and wrap around. In max and min NaN wins. Bound by the bytes read.
#include "ops/reduction.h"
#ifdef LF_SCHEMA_PASS

namespace lf {
namespace {

// Sums and products: f in, f out; integers and bool give i64.
void total_shape(OpCall& call) {
  const DType dtype = call.in(0).dtype;
  reduced_output(call, is_floating(dtype) ? dtype : DType::kI64, false);
}
void mean_shape(OpCall& call) {
  call.check_floating(0);
  reduced_output(call, call.in(0).dtype, false);
}
void extremum_shape(OpCall& call) {
  if (call.in(0).dtype == DType::kBool) call.fail_hint(kDType, "cast it to u8 first", "x is bool, needs numbers");
  reduced_output(call, call.in(0).dtype, true);
}

#define LF_REDUCTION(op, shape_rule)                                                                    \
  LF_OP({.name = #op,                                                                                   \
         .inputs = {{"x"}},                                                                             \
         .attrs = {{"axes", AttrType::kIntegers}, {"keepdims", AttrType::kFlag}},                       \
         .shape = shape_rule,                                                                           \
         .cost = reduction_cost<1>,                                                                     \
         .workspace = reduction_workspace})
LF_REDUCTION(sum, total_shape)
LF_REDUCTION(prod, total_shape)
LF_REDUCTION(mean, mean_shape)
LF_REDUCTION(max, extremum_shape)
LF_REDUCTION(min, extremum_shape)

}  // namespace
}  // namespace lf
#else
#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/dtype_dispatch.h"

namespace lf {
namespace {

constexpr int64_t kRowsAtOnce = 32;  // rows added up in f32 before they go to f64
constexpr int64_t kNarrow = 256;     // columns below half of which rows are joined; at most kColumns

template <class T>
struct SumFloating {
  using Partial = double;
  using V = typename Lanes<T>::V;
  using Scalar = typename Lanes<T>::Scalar;
  static constexpr int64_t kLanes = Lanes<T>::n;
  static LF_INLINE Partial initial() { return 0; }
  static LF_INLINE void join(Partial& a, Partial b) { a += b; }
  static void stretch(const T* p, int64_t n, int64_t, Partial& sum) {
    constexpr int64_t kBlock = 4 * kLanes * 8;
    int64_t i = 0;
    for (; i + kBlock <= n; i += kBlock) {
      V a{}, b{}, c{}, d{};
      for (int64_t k = i; k < i + kBlock; k += 4 * kLanes) {
        a += load(p + k);
        b += load(p + k + kLanes);
        c += load(p + k + 2 * kLanes);
        d += load(p + k + 3 * kLanes);
      }
      sum += static_cast<double>(reduce_add((a + b) + (c + d)));
    }
    if (i == n) return;
    V rest{};
    for_lanes<T>(n - i, [&](int64_t k, int64_t count) { rest += load_some(p + i + k, count); });
    sum += static_cast<double>(reduce_add(rest));
  }
  static void rows(const T* p, int64_t step, int64_t n, int64_t columns, int64_t, Partial* sums) {
    // Narrow rows without gaps would leave vectors half empty: several of them make one row.
    const int64_t together = kNarrow / columns;
    if (step == columns && together >= 2 && n >= 2 * together) {
      double wide[kNarrow] = {};
      const int64_t whole = n / together;
      rows(p, together * columns, whole, together * columns, 0, wide);
      for (int64_t k = 0; k < together; ++k) {
        for (int64_t i = 0; i < columns; ++i) sums[i] += wide[k * columns + i];
      }
      p += whole * together * step;
      n -= whole * together;
    }
    for (int64_t row = 0; row < n; row += kRowsAtOnce) {
      const int64_t end = row + kRowsAtOnce < n ? row + kRowsAtOnce : n;
      Scalar part[kColumns];
      for (int64_t i = 0; i < columns; ++i) part[i] = 0;
      int64_t r = row;
      for (; r + 4 <= end; r += 4) {
        const T* q = p + r * step;
        for_lanes<T>(columns, [=, &part](int64_t i, int64_t k) {
          const V four = (load_some(q + i, k) + load_some(q + step + i, k)) +
                         (load_some(q + 2 * step + i, k) + load_some(q + 3 * step + i, k));
          store_some(part + i, load_some(part + i, k) + four, k);
        });
      }
      for (; r < end; ++r) {
        const T* q = p + r * step;
        for_lanes<T>(columns, [=, &part](int64_t i, int64_t k) {
          store_some(part + i, load_some(part + i, k) + load_some(q + i, k), k);
        });
      }
      for (int64_t i = 0; i < columns; ++i) sums[i] += static_cast<double>(part[i]);
    }
  }
  static LF_INLINE void finish(Partial sum, int64_t, T& out) { put(&out, static_cast<Scalar>(sum)); }
};

template <class T>
struct MeanFloating : SumFloating<T> {
  static LF_INLINE void finish(double sum, int64_t total, T& out) {
    put(&out, static_cast<typename Lanes<T>::Scalar>(sum / static_cast<double>(total)));
  }
};

// A reduction that takes in elements one by one: Step::apply(partial, element).
template <class T, class Step>
struct OneByOne {
  using Partial = typename Step::Partial;
  static LF_INLINE Partial initial() { return Step::initial(); }
  static LF_INLINE void join(Partial& a, Partial b) { a = Step::apply(a, b); }
  static void stretch(const T* p, int64_t n, int64_t, Partial& partial) {
    Partial lanes[8];
    for (int k = 0; k < 8; ++k) lanes[k] = initial();
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
      for (int k = 0; k < 8; ++k) lanes[k] = Step::apply(lanes[k], Step::element(p[i + k]));
    }
    for (; i < n; ++i) lanes[0] = Step::apply(lanes[0], Step::element(p[i]));
    for (int k = 0; k < 8; ++k) partial = Step::apply(partial, lanes[k]);
  }
  static void rows(const T* p, int64_t step, int64_t n, int64_t columns, int64_t, Partial* partials) {
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t i = 0; i < columns; ++i) partials[i] = Step::apply(partials[i], Step::element(p[row * step + i]));
    }
  }
  template <class Out>
  static LF_INLINE void finish(Partial partial, int64_t, Out& out) {
    if constexpr (kIsFloating<Out>) {
      put(&out, static_cast<typename Lanes<Out>::Scalar>(partial));
    } else {
      out = static_cast<Out>(partial);
    }
  }
};

template <class T>
LF_INLINE uint64_t whole(T x) {
  if constexpr (kIsSame<T, Bool>) return x.value;
  else return static_cast<uint64_t>(static_cast<int64_t>(x));
}
template <class T>
struct AddWhole {
  using Partial = uint64_t;
  static LF_INLINE Partial initial() { return 0; }
  static LF_INLINE Partial element(T x) { return whole(x); }
  static LF_INLINE Partial apply(Partial a, Partial b) { return a + b; }
};
template <class T>
struct MultiplyWhole : AddWhole<T> {
  using Partial = uint64_t;
  static LF_INLINE Partial initial() { return 1; }
  static LF_INLINE Partial apply(Partial a, Partial b) { return a * b; }
};
template <class T>
struct MultiplyFloating {
  using Partial = double;
  static LF_INLINE Partial initial() { return 1; }
  static LF_INLINE Partial element(T x) { return static_cast<double>(get(&x)); }
  static LF_INLINE Partial apply(Partial a, Partial b) { return a * b; }
};

template <class T, bool largest>
struct BestWhole {
  using Partial = int64_t;
  static LF_INLINE Partial initial() { return largest ? INT64_MIN : INT64_MAX; }
  static LF_INLINE Partial element(T x) { return static_cast<int64_t>(x); }
  static LF_INLINE Partial apply(Partial a, Partial b) { return (largest ? a < b : b < a) ? b : a; }
};

template <class T, bool largest>
struct BestFloating {
  using Partial = typename Lanes<T>::Scalar;
  using V = typename Lanes<T>::V;
  static constexpr int64_t kLanes = Lanes<T>::n;
  template <class X>
  static LF_INLINE X better(X best, X x) {
    if constexpr (largest) return ((x > best) | (x != x)) ? x : best;
    else return ((x < best) | (x != x)) ? x : best;
  }
  static LF_INLINE Partial initial() { return largest ? -__builtin_inf() : __builtin_inf(); }
  static LF_INLINE void join(Partial& a, Partial b) { a = better(a, b); }
  static void stretch(const T* p, int64_t n, int64_t, Partial& best) {
    if (n >= kLanes) {
      V a = load(p), b = a, c = a, d = a;
      int64_t i = kLanes;
      for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
        a = better(a, load(p + i));
        b = better(b, load(p + i + kLanes));
        c = better(c, load(p + i + 2 * kLanes));
        d = better(d, load(p + i + 3 * kLanes));
      }
      for (; i + kLanes <= n; i += kLanes) a = better(a, load(p + i));
      a = better(better(a, b), better(c, d));
      a = better(a, load(p + n - kLanes));  // the rest; some elements a second time
      for (int64_t k = 0; k < kLanes; ++k) best = better(best, static_cast<Partial>(a[k]));
    } else {
      for (int64_t k = 0; k < n; ++k) best = better(best, static_cast<Partial>(get(p + k)));
    }
  }
  static void rows(const T* p, int64_t step, int64_t n, int64_t columns, int64_t, Partial* best) {
    for (int64_t row = 0; row < n; ++row) {
      const T* q = p + row * step;
      for_lanes<T>(columns, [=](int64_t i, int64_t k) {
        store_some(best + i, better(load_some(best + i, k), load_some(q + i, k)), k);
      });
    }
  }
  static LF_INLINE void finish(Partial best, int64_t, T& out) { put(&out, best); }
};

template <template <class> class Floating, template <class> class Whole>
int32_t total(const KernelArgs* args) {
  const DType dtype = args->inputs[0].dtype;
  if (is_floating(dtype)) {
    visit_floating(dtype, [&](auto t) { reduce<Floating<decltype(t)>, decltype(t), decltype(t)>(args); });
  } else if (dtype == DType::kBool) {
    reduce<OneByOne<Bool, Whole<Bool>>, Bool, int64_t>(args);
  } else {
    visit_integer(dtype, [&](auto t) { reduce<OneByOne<decltype(t), Whole<decltype(t)>>, decltype(t), int64_t>(args); });
  }
  return kOk;
}
template <class T>
using ProductFloating = OneByOne<T, MultiplyFloating<T>>;

int32_t sum(const KernelArgs* args) { return total<SumFloating, AddWhole>(args); }
int32_t prod(const KernelArgs* args) { return total<ProductFloating, MultiplyWhole>(args); }
int32_t mean(const KernelArgs* args) {
  visit_floating(args->inputs[0].dtype, [&](auto t) { reduce<MeanFloating<decltype(t)>, decltype(t), decltype(t)>(args); });
  return kOk;
}
template <bool largest>
int32_t extremum(const KernelArgs* args) {
  const DType dtype = args->inputs[0].dtype;
  visit_floating(dtype, [&](auto t) { reduce<BestFloating<decltype(t), largest>, decltype(t), decltype(t)>(args); });
  visit_integer(dtype, [&](auto t) {
    reduce<OneByOne<decltype(t), BestWhole<decltype(t), largest>>, decltype(t), decltype(t)>(args);
  });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(sum, sum)
LF_CPU_KERNEL(prod, prod)
LF_CPU_KERNEL(mean, mean)
LF_CPU_KERNEL(max, extremum<true>)
LF_CPU_KERNEL(min, extremum<false>)

}  // namespace lf
#endif
