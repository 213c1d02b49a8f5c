// softmax, log_softmax over one axis, and cross_entropy over the last one, with their gradients.
//   softmax_backward: dx = y (dy - sum dy y);  log_softmax_backward: dx = dy - exp(y) sum dy
//   cross_entropy: loss_i = (1 - s) (L - z[t]) + s (L - mean z), s = label smoothing; ignored rows give 0.
// Rows are numbers along the axis; for an inner axis a row is contiguous. Bound by bytes.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

void like_x(OpCall& call) {
  call.check_rank(0, 1);
  call.check_floating(0);
  call.check_axis(0, call.in(0));
  call.output_like(call.in(0));
}
void like_both(OpCall& call) {
  call.check_same_shape(0, 1);
  call.check_same_dtype(0, 1);
  like_x(call);
}

LF_OP({.name = "softmax", .inputs = {{"x"}}, .attrs = {{"axis", AttrType::kInteger}}, .shape = like_x, .cost = io_cost<5>})
LF_OP({.name = "log_softmax", .inputs = {{"x"}}, .attrs = {{"axis", AttrType::kInteger}}, .shape = like_x, .cost = io_cost<5>})
LF_OP({.name = "softmax_backward",
       .inputs = {{"grad"}, {"y"}},
       .attrs = {{"axis", AttrType::kInteger}},
       .shape = like_both,
       .cost = io_cost<4>})
LF_OP({.name = "log_softmax_backward",
       .inputs = {{"grad"}, {"y"}},
       .attrs = {{"axis", AttrType::kInteger}},
       .shape = like_both,
       .cost = io_cost<4>})

void check_targets(const OpCall& call, int logits, int targets) {
  call.check_rank(logits, 2, 2);
  call.check_floating(logits);
  call.check_dtype(targets, DType::kI32);
  if (call.in(targets).numel != call.in(logits).shape[0]) {
    call.fail(kShape, "%lld targets for %lld rows", (long long)call.in(targets).numel, (long long)call.in(logits).shape[0]);
  }
  if (!(call.number(1) >= 0 && call.number(1) < 1)) {
    call.fail(kArgument, "label smoothing must be at least 0 and below 1, got %g", call.number(1));
  }
}

// -> losses [rows] and log-sum-exps [rows], f32 (f64 for f64)
LF_OP({.name = "cross_entropy",
       .inputs = {{"logits"}, {"targets"}},
       .attrs = {{"ignore_index", AttrType::kInteger}, {"label_smoothing", AttrType::kNumber}},
       .shape =
           [](OpCall& call) {
             check_targets(call, 0, 1);
             const DType acc = call.in(0).dtype == DType::kF64 ? DType::kF64 : DType::kF32;
             for (int i = 0; i < 2; ++i) call.output(acc, {call.in(0).shape[0]});
           },
       .cost = [](const OpCall& call) { return io_cost_with_flops(call, 4 * static_cast<double>(call.in(0).numel)); }})

// grad [rows] of the losses -> d logits
LF_OP({.name = "cross_entropy_backward",
       .inputs = {{"grad"}, {"logits"}, {"targets"}, {"log_sums"}},
       .attrs = {{"ignore_index", AttrType::kInteger}, {"label_smoothing", AttrType::kNumber}},
       .shape =
           [](OpCall& call) {
             check_targets(call, 1, 2);
             call.check_same_dtype(0, 3);
             call.check_same_shape(0, 3);
             call.output_like(call.in(1));
           },
       .cost = io_cost<4>})

}  // namespace
}  // namespace lf
#else
#include <cstdio>

#include "cpu/simd.h"

namespace lf {
namespace {

// A row of n numbers `stride` apart, as contiguous Acc in `buffer`.
template <class T, class Acc>
void gather_row(const T* from, int64_t n, int64_t stride, Acc* buffer) {
  if (stride == 1) {
    for_lanes<T>(n, [&](int64_t i, int64_t count) { store_some(buffer + i, load_some(from + i, count), count); });
  } else {
    for (int64_t i = 0; i < n; ++i) buffer[i] = get(from + i * stride);
  }
}
template <class T, class Acc>
void scatter_row(const Acc* buffer, int64_t n, int64_t stride, T* to) {
  if (stride == 1) {
    for_lanes<T>(n, [&](int64_t i, int64_t count) { store_some(to + i, load_some(buffer + i, count), count); });
  } else {
    for (int64_t i = 0; i < n; ++i) put(to + i * stride, buffer[i]);
  }
}

template <class Acc>
struct LogSum {
  Acc highest, sum;
  Acc value() const { return highest + log(splat(sum))[0]; }
};

// Highest value and sum of exp(x - highest). A row of -inf alone has highest 0 and sum 0.
template <class Acc>
LogSum<Acc> log_sum_exp(const Acc* row, int64_t n) {
  using V = typename Lanes<Acc>::V;
  const Acc lowest = static_cast<Acc>(-__builtin_inf());
  V best = splat(lowest);
  for_lanes<Acc>(n, [&](int64_t i, int64_t count) {
    V v = load_some(row + i, count);
    for (int64_t k = count; k < Lanes<Acc>::n; ++k) v[k] = lowest;
    best = v > best || v != v ? v : best;
  });
  Acc highest = reduce_max(best);
  if (highest == lowest) highest = 0;
  V sum{};
  for_lanes<Acc>(n, [&](int64_t i, int64_t count) {
    V e = exp(load_some(row + i, count) - highest);
    for (int64_t k = count; k < Lanes<Acc>::n; ++k) e[k] = 0;
    sum += e;
  });
  return {highest, reduce_add(sum)};
}

struct Rows {
  int64_t outer, n, inner;
  Rows(const TensorView& x, int64_t axis) {
    const int at = static_cast<int>(axis < 0 ? axis + x.rank : axis);
    outer = x.span(0, at);
    n = x.shape[at];
    inner = x.span(at + 1, x.rank);
  }
  // f(offset of the row's first element)
  template <class F>
  void each(F&& f) const {
    cpu::parallel_for(outer * inner, 16384 / (n + 1) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) f(r / inner * n * inner + r % inner);
    });
  }
};

template <class T, bool kLog>
int32_t forward(const KernelArgs* args) {
  using Acc = typename Lanes<T>::Scalar;
  const TensorView& x = args->inputs[0];
  const Rows rows(x, args->integer(0));
  rows.each([&](int64_t at) {
    Acc* row = static_cast<Acc*>(cpu::scratch(0, static_cast<size_t>(rows.n) * sizeof(Acc) + 64));
    gather_row(x.as<const T>() + at, rows.n, rows.inner, row);
    const LogSum<Acc> sums = log_sum_exp(row, rows.n);
    const Acc shift = kLog ? sums.value() : sums.highest, factor = static_cast<Acc>(1) / sums.sum;
    for_lanes<Acc>(rows.n, [&](int64_t i, int64_t n) {
      const auto v = load_some(row + i, n) - shift;
      if constexpr (kLog) store_some(row + i, v, n);
      else store_some(row + i, exp(v) * factor, n);
    });
    scatter_row(row, rows.n, rows.inner, args->outputs[0].as<T>() + at);
  });
  return kOk;
}

template <class T, bool kLog>
int32_t backward(const KernelArgs* args) {
  using Acc = typename Lanes<T>::Scalar;
  using V = typename Lanes<T>::V;
  const TensorView &grad = args->inputs[0], &y = args->inputs[1];
  const Rows rows(y, args->integer(0));
  rows.each([&](int64_t at) {
    Acc* dy = static_cast<Acc*>(cpu::scratch(0, static_cast<size_t>(2 * rows.n) * sizeof(Acc) + 128));
    Acc* row = dy + rows.n;
    gather_row(grad.as<const T>() + at, rows.n, rows.inner, dy);
    gather_row(y.as<const T>() + at, rows.n, rows.inner, row);
    V total{};
    for_lanes<Acc>(rows.n, [&](int64_t i, int64_t n) {
      const V d = load_some(dy + i, n);
      total += kLog ? d : d * load_some(row + i, n);
    });
    const Acc sum = reduce_add(total);
    for_lanes<Acc>(rows.n, [&](int64_t i, int64_t n) {
      const V d = load_some(dy + i, n), v = load_some(row + i, n);
      store_some(dy + i, kLog ? d - exp(v) * sum : v * (d - sum), n);
    });
    scatter_row(dy, rows.n, rows.inner, args->outputs[0].as<T>() + at);
  });
  return kOk;
}

int32_t bad_target(const KernelArgs* args, const TensorView& targets, int64_t vocab, int64_t ignored) {
  for (int64_t i = 0; i < targets.numel; ++i) {
    const int32_t target = targets.as<const int32_t>()[i];
    if (target == ignored || (target >= 0 && target < vocab)) continue;
    std::snprintf(args->error, kErrorText, "target %d at position %lld is outside the vocabulary of %lld", target,
                  static_cast<long long>(i), static_cast<long long>(vocab));
    return kKernel;
  }
  return kOk;
}

template <class T>
int32_t losses(const KernelArgs* args) {
  using Acc = typename Lanes<T>::Scalar;
  using V = typename Lanes<T>::V;
  const TensorView &logits = args->inputs[0], &targets = args->inputs[1];
  const int64_t vocab = logits.shape[1], ignored = args->integer(0);
  const Acc spread = static_cast<Acc>(args->number(1));
  if (int32_t code = bad_target(args, targets, vocab, ignored)) return code;
  cpu::parallel_for(logits.shape[0], 16384 / (vocab + 1) + 1, [&](int64_t begin, int64_t end) {
    Acc* row = static_cast<Acc*>(cpu::scratch(0, static_cast<size_t>(vocab) * sizeof(Acc) + 64));
    for (int64_t r = begin; r < end; ++r) {
      gather_row(logits.as<const T>() + r * vocab, vocab, 1, row);
      const Acc log_sum = log_sum_exp(row, vocab).value();
      const int64_t target = targets.as<const int32_t>()[r];
      Acc loss = 0;
      if (target != ignored) {
        loss = (1 - spread) * (log_sum - row[target]);
        if (spread > 0) {
          V total{};
          for_lanes<Acc>(vocab, [&](int64_t i, int64_t n) { total += load_some(row + i, n); });
          loss += spread * (log_sum - reduce_add(total) / static_cast<Acc>(vocab));
        }
      }
      args->outputs[0].as<Acc>()[r] = loss;
      args->outputs[1].as<Acc>()[r] = log_sum;
    }
  });
  return kOk;
}

template <class T>
int32_t loss_gradients(const KernelArgs* args) {
  using Acc = typename Lanes<T>::Scalar;
  const TensorView &grad = args->inputs[0], &logits = args->inputs[1], &targets = args->inputs[2];
  const Acc* log_sums = args->inputs[3].as<const Acc>();
  const int64_t vocab = logits.shape[1], ignored = args->integer(0);
  const Acc spread = static_cast<Acc>(args->number(1)), uniform = spread / static_cast<Acc>(vocab);
  cpu::parallel_for(logits.shape[0], 16384 / (vocab + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* z = logits.as<const T>() + r * vocab;
      T* out = args->outputs[0].as<T>() + r * vocab;
      const int64_t target = targets.as<const int32_t>()[r];
      const Acc g = target == ignored ? Acc{} : grad.as<const Acc>()[r];
      for_lanes<T>(vocab, [&](int64_t i, int64_t n) {
        store_some(out + i, (exp(load_some(z + i, n) - log_sums[r]) - uniform) * g, n);
      });
      if (target == ignored) continue;
      const Acc p = exp(splat(static_cast<Acc>(get(z + target) - log_sums[r])))[0];
      put(out + target, (p - uniform - (1 - spread)) * g);
    }
  });
  return kOk;
}

#define LF_BY_DTYPE(name, function, input)                       \
  int32_t name(const KernelArgs* args) {                         \
    switch (args->inputs[input].dtype) {                         \
      case DType::kF32: return function(float);                  \
      case DType::kF16: return function(f16);                    \
      case DType::kBF16: return function(bf16);                  \
      default: return function(double);                          \
    }                                                            \
  }
#define LF_FORWARD(T) forward<T, false>(args)
#define LF_FORWARD_LOG(T) forward<T, true>(args)
#define LF_BACKWARD(T) backward<T, false>(args)
#define LF_BACKWARD_LOG(T) backward<T, true>(args)
#define LF_LOSSES(T) losses<T>(args)
#define LF_LOSS_GRADIENTS(T) loss_gradients<T>(args)
LF_BY_DTYPE(softmax, LF_FORWARD, 0)
LF_BY_DTYPE(log_softmax, LF_FORWARD_LOG, 0)
LF_BY_DTYPE(softmax_backward, LF_BACKWARD, 0)
LF_BY_DTYPE(log_softmax_backward, LF_BACKWARD_LOG, 0)
LF_BY_DTYPE(cross_entropy, LF_LOSSES, 0)
LF_BY_DTYPE(cross_entropy_backward, LF_LOSS_GRADIENTS, 1)

}  // namespace

LF_CPU_KERNEL(softmax, softmax)
LF_CPU_KERNEL(log_softmax, log_softmax)
LF_CPU_KERNEL(softmax_backward, softmax_backward)
LF_CPU_KERNEL(log_softmax_backward, log_softmax_backward)
LF_CPU_KERNEL(cross_entropy, cross_entropy)
LF_CPU_KERNEL(cross_entropy_backward, cross_entropy_backward)

}  // namespace lf
#endif
