// where: z = condition ? x : y with NumPy broadcasting of all three; bool condition, x and y of any one format.
// broadcast_to: x repeated to a larger shape. Bound by the bytes.
#include "ops/broadcast.h"
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

LF_OP({.name = "where",
       .inputs = {{"condition"}, {"x"}, {"y"}},
       .attrs = {},
       .shape =
           [](OpCall& call) {
             call.check_dtype(0, DType::kBool);
             call.check_same_dtype(1, 2);
             call.output_like(broadcast_shape(call, 0, 3), call.in(1).dtype);
           },
       .cost = io_cost<0>})

LF_OP({.name = "broadcast_to",
       .inputs = {{"x"}},
       .attrs = {{"shape", AttrType::kIntegers}},
       .shape =
           [](OpCall& call) {
             const TensorView& x = call.in(0);
             const int rank = call.list_size(0);
             if (rank > kMaxRank) call.fail(kShape, "%d axes are more than %d", rank, kMaxRank);
             TensorView out = x;
             out.rank = rank;
             for (int i = 0; i < rank; ++i) out.shape[i] = call.item(0, i);
             bool fits = x.rank <= rank;
             for (int i = 1; fits && i <= x.rank; ++i) fits = x.dim(-i) == 1 || x.dim(-i) == out.dim(-i);
             if (!fits) {
               call.fail(kShape, "shape %s does not broadcast to %s", shape_text(x).c_str(), shape_text(out).c_str());
             }
             call.output_like(out);
           },
       .cost = io_cost<0>})

}  // namespace
}  // namespace lf
#else
#include "cpu/kernel.h"

namespace lf {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements

// Elements are only moved, so their size is all that counts.
template <class F>
LF_INLINE void visit_size(DType dtype, F&& f) {
  switch (dtype_size(dtype)) {
    case 1: f(uint8_t{}); break;
    case 2: f(uint16_t{}); break;
    case 4: f(uint32_t{}); break;
    default: f(uint64_t{}); break;
  }
}

int32_t where(const KernelArgs* args) {
  const TensorView& out = args->outputs[0];
  const Walk walk = plan_walk(args->inputs, 3, out);
  const int64_t c_step = walk.step[0][0], x_step = walk.step[1][0], y_step = walk.step[2][0];
  visit_size(out.dtype, [&](auto t) {
    using T = decltype(t);
    for_rows(walk, out.numel, kGrain, [&](const int64_t* offsets, int64_t at, int64_t n) {
      const uint8_t* c = args->inputs[0].as<uint8_t>() + offsets[0];
      const T *x = args->inputs[1].as<T>() + offsets[1], *y = args->inputs[2].as<T>() + offsets[2];
      T* z = out.as<T>() + at;
      // Both sides are read before the choice, so that it becomes a blend.
      const auto choose = [=](auto&& first, auto&& second) {
        for (int64_t i = 0; i < n; ++i) {
          const T a = first(i), b = second(i);
          z[i] = c[i] ? a : b;
        }
      };
      const T x0 = *x, y0 = *y;
      const auto run_x = [=](int64_t i) { return x[i]; };
      const auto run_y = [=](int64_t i) { return y[i]; };
      const auto one_x = [=](int64_t) { return x0; };
      const auto one_y = [=](int64_t) { return y0; };
      if (!c_step) {
        for (int64_t i = 0; i < n; ++i) z[i] = *c ? x[i * x_step] : y[i * y_step];
      } else if (x_step) {
        y_step ? choose(run_x, run_y) : choose(run_x, one_y);
      } else {
        y_step ? choose(one_x, run_y) : choose(one_x, one_y);
      }
    });
  });
  return kOk;
}

int32_t broadcast_to(const KernelArgs* args) {
  const TensorView& out = args->outputs[0];
  const Walk walk = plan_walk(args->inputs, 1, out);
  const int64_t step = walk.step[0][0];
  visit_size(out.dtype, [&](auto t) {
    using T = decltype(t);
    for_rows(walk, out.numel, kGrain, [&](const int64_t* offsets, int64_t at, int64_t n) {
      const T* x = args->inputs[0].as<T>() + offsets[0];
      T* y = out.as<T>() + at;
      if (step) {
        __builtin_memcpy(y, x, static_cast<size_t>(n) * sizeof(T));
      } else {
        const T value = *x;
        for (int64_t i = 0; i < n; ++i) y[i] = value;
      }
    });
  });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(where, where)
LF_CPU_KERNEL(broadcast_to, broadcast_to)

}  // namespace lf
#endif
