// swiglu: y = silu(a) b (Shazeer, arXiv 2002.05202), with a and b as two tensors of one shape or as the halves of the last
// axis of a [..., 2F]. swiglu_backward gives da = dy b silu'(a) and db = dy silu(a), in the layout of the inputs.
// One pass; FLOPs: 5 and 12 an element.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

// The shape of the result from inputs `a` and `a + 1`.
TensorView result_shape(const OpCall& call, int a) {
  call.check_floating(a);
  TensorView out = call.in(a);
  if (call.has(a + 1)) {
    call.check_same_dtype(a, a + 1);
    call.check_same_shape(a, a + 1);
    return out;
  }
  if (out.rank < 1 || out.dim(-1) % 2) {
    call.fail_hint(kShape, "or give b as a tensor of its own", "a has shape %s, needs a last axis of even size",
                   shape_text(out).c_str());
  }
  out.shape[out.rank - 1] /= 2;
  return out;
}

LF_OP({.name = "swiglu",
       .inputs = {{"a"}, {.name = "b", .optional = true}},
       .attrs = {},
       .shape = [](OpCall& call) { call.output_like(result_shape(call, 0)); },
       .cost = io_cost<5>})

LF_OP({.name = "swiglu_backward",
       .inputs = {{"grad"}, {"a"}, {.name = "b", .optional = true}},
       .attrs = {},
       .shape =
           [](OpCall& call) {
             const TensorView y = result_shape(call, 1);
             const TensorView& grad = call.in(0);
             call.check_same_dtype(0, 1);
             bool same = grad.rank == y.rank;
             for (int i = 0; same && i < y.rank; ++i) same = grad.shape[i] == y.shape[i];
             if (!same) call.fail(kShape, "grad has shape %s, needs %s", shape_text(grad).c_str(), shape_text(y).c_str());
             call.output_like(call.in(1));
             if (call.has(2)) call.output_like(call.in(2));
           },
       .cost = [](const OpCall& call) { return io_cost_with_flops(call, 12.0 * static_cast<double>(call.in(0).numel)); }})

}  // namespace
}  // namespace lf
#else
#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/dtype_dispatch.h"

namespace lf {
namespace {

constexpr int64_t kGrain = 1 << 13;  // elements

// Rows of F results; with one input, its rows are 2F long and b follows a.
struct Layout {
  int64_t rows, columns, stride;
};
LF_INLINE Layout layout_of(const TensorView& a, const TensorView& b) {
  if (b.present()) return {1, a.numel, a.numel};
  const int64_t width = a.dim(-1);
  return {width ? a.numel / width : 0, width / 2, width};
}

// f(start in the input, start in the result, count) over pieces of rows, in parallel.
template <class F>
LF_INLINE void for_pieces(const Layout& layout, F&& f) {
  cpu::parallel_for(layout.rows * layout.columns, kGrain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t row = begin / layout.columns, column = begin % layout.columns;
      const int64_t left = layout.columns - column, n = left < end - begin ? left : end - begin;
      f(row * layout.stride + column, begin, n);
      begin += n;
    }
  });
}

int32_t swiglu(const KernelArgs* args) {
  const TensorView &first = args->inputs[0], &second = args->inputs[1];
  const Layout layout = layout_of(first, second);
  visit_floating(first.dtype, [&](auto t) {
    using T = decltype(t);
    const T* a = first.as<T>();
    const T* b = second.present() ? second.as<T>() : a + layout.columns;
    T* y = args->outputs[0].as<T>();
    for_pieces(layout, [=](int64_t in, int64_t out, int64_t count) {
      for_lanes<T>(count, [=](int64_t i, int64_t n) {
        store_some(y + out + i, silu(load_some(a + in + i, n)) * load_some(b + in + i, n), n);
      });
    });
  });
  return kOk;
}

int32_t swiglu_backward(const KernelArgs* args) {
  const TensorView &first = args->inputs[1], &second = args->inputs[2];
  const Layout layout = layout_of(first, second);
  visit_floating(first.dtype, [&](auto t) {
    using T = decltype(t);
    using V = typename Lanes<T>::V;
    const T *g = args->inputs[0].as<T>(), *a = first.as<T>();
    const T* b = second.present() ? second.as<T>() : a + layout.columns;
    T* da = args->outputs[0].as<T>();
    T* db = second.present() ? args->outputs[1].as<T>() : da + layout.columns;
    for_pieces(layout, [=](int64_t in, int64_t out, int64_t count) {
      for_lanes<T>(count, [=](int64_t i, int64_t n) {
        const V x = load_some(a + in + i, n), dy = load_some(g + out + i, n);
        const V s = sigmoid(x), y = x * s;
        store_some(da + in + i, dy * load_some(b + in + i, n) * (s + y * (1 - s)), n);
        store_some(db + in + i, dy * y, n);
      });
    });
  });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(swiglu, swiglu)
LF_CPU_KERNEL(swiglu_backward, swiglu_backward)

}  // namespace lf
#endif
