// cumsum: out_i = x_0 + ... + x_i along an axis; in reverse x_i + ... + x_last, which is its gradient. Sums of f32, f16 and
// bf16 are kept in f64, integers wrap around. One addition per element; bound by bytes.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

LF_OP({.name = "cumsum",
       .inputs = {{"x"}},
       .attrs = {{"axis", AttrType::kInteger}, {"reverse", AttrType::kFlag}},
       .shape =
           [](OpCall& call) {
             call.check_axis(0, call.in(0));
             if (call.in(0).dtype == DType::kBool) call.fail_hint(kDType, "cast it first", "x is bool, needs numbers");
             call.output_like(call.in(0));
           },
       .cost = io_cost<1>})

}  // namespace
}  // namespace lf
#else
#include "cpu/simd.h"
#include "ops/dtype_dispatch.h"

namespace lf {
namespace {

constexpr int64_t kLanes = 64;  // neighbouring lines that are summed together

template <class T>
void scan(const KernelArgs* args, int axis, bool reverse) {
  const TensorView &x = args->inputs[0], &out = args->outputs[0];
  const int64_t n = x.shape[axis], inner = x.span(axis + 1, x.rank), blocks = (inner + kLanes - 1) / kLanes;
  const int64_t wide = inner < kLanes ? inner : kLanes;
  cpu::parallel_for(x.span(0, axis) * blocks, 16384 / (n * wide + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t lane = task % blocks * kLanes, first = task / blocks * n * inner + lane;
      const int64_t lanes = inner - lane < kLanes ? inner - lane : kLanes;
      const T* from = x.as<const T>() + first;
      T* to = out.as<T>() + first;
      if constexpr (kIsFloating<T>) {
        double sums[kLanes] = {};
        for (int64_t k = 0; k < n; ++k) {
          const int64_t at = (reverse ? n - 1 - k : k) * inner;
          for (int64_t i = 0; i < lanes; ++i) {
            sums[i] += static_cast<double>(get(from + at + i));
            put(to + at + i, static_cast<typename Lanes<T>::Scalar>(sums[i]));
          }
        }
      } else {
        uint64_t sums[kLanes] = {};
        for (int64_t k = 0; k < n; ++k) {
          const int64_t at = (reverse ? n - 1 - k : k) * inner;
          for (int64_t i = 0; i < lanes; ++i) {
            sums[i] += static_cast<uint64_t>(from[at + i]);
            to[at + i] = static_cast<T>(sums[i]);
          }
        }
      }
    }
  });
}

int32_t cumsum(const KernelArgs* args) {
  const TensorView& x = args->inputs[0];
  const int64_t given = args->integer(0);
  const int axis = static_cast<int>(given < 0 ? given + x.rank : given);
  if (x.numel > 0) visit_numbers(x.dtype, [&](auto type) { scan<decltype(type)>(args, axis, args->flag(1)); });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(cumsum, cumsum)

}  // namespace lf
#endif
