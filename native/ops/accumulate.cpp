// accumulate: target += x in place, for gradients that arrive in parts. Equal shapes and formats. 16-bit formats are added
// in f32 and rounded once, integers wrap around. Bound by the bytes.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

Cost cost(const OpCall& call) {
  Cost cost = io_cost_with_flops(call, static_cast<double>(call.in(0).numel));
  cost.bytes_written = bytes_of(call.in(0));
  return cost;
}

LF_OP({.name = "accumulate",
       .inputs = {{.name = "target", .mutated = true}, {"x"}},
       .attrs = {},
       .shape =
           [](OpCall& call) {
             call.check_same_dtype(0, 1);
             if (call.in(0).dtype == DType::kBool) call.fail(kDType, "bool cannot be added to");
             call.check_same_shape(0, 1);
           },
       .cost = cost})

}  // namespace
}  // namespace lf
#else
#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/dtype_dispatch.h"

namespace lf {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements

template <class T>
void add_to(const TensorView& target, const TensorView& x) {
  T* y = target.as<T>();
  const T* a = x.as<T>();
  cpu::parallel_for(target.numel, kGrain, [=](int64_t begin, int64_t end) {
    if constexpr (kIsFloating<T>) {
      for_lanes<T>(end - begin, [=](int64_t i, int64_t n) {
        store_some(y + begin + i, load_some(y + begin + i, n) + load_some(a + begin + i, n), n);
      });
    } else {
      for (int64_t i = begin; i < end; ++i) y[i] = static_cast<T>(static_cast<uint64_t>(y[i]) + static_cast<uint64_t>(a[i]));
    }
  });
}

int32_t accumulate(const KernelArgs* args) {
  visit_numbers(args->inputs[0].dtype, [&](auto t) { add_to<decltype(t)>(args->inputs[0], args->inputs[1]); });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(accumulate, accumulate)

}  // namespace lf
#endif
