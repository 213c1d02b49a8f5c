// dropout: y = x * (0 with probability p, else 1 / (1 - p)). Element e takes word e % 4 of Philox block e / 4, so the same
// call on a gradient repeats the mask, and every device draws the same one. Bound by bytes on paper, by the ten rounds of
// Philox here.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

LF_OP({.name = "dropout",
       .inputs = {{"x"}},
       .attrs = {{"p", AttrType::kNumber}, {"seed", AttrType::kInteger}, {"offset", AttrType::kInteger}},
       .shape =
           [](OpCall& call) {
             call.check_floating(0);
             if (!(call.number(0) >= 0 && call.number(0) < 1)) {
               call.fail(kArgument, "p must be at least 0 and below 1, got %g", call.number(0));
             }
             call.output_like(call.in(0));
           },
       .cost = io_cost<1>})

}  // namespace
}  // namespace lf
#else
#include "api/philox.h"
#include "cpu/simd.h"

namespace lf {
namespace {

constexpr int64_t kBlocks = 64;  // Philox blocks at a time; a loop over them that the compiler turns into vectors

template <class T>
int32_t drop(const KernelArgs* args) {
  using Acc = typename Lanes<T>::Scalar;
  const TensorView& x = args->inputs[0];
  const float p = static_cast<float>(args->number(0));
  const Acc kept = static_cast<Acc>(1.0 / (1.0 - args->number(0)));
  const PhiloxKey key = philox_key(args->integer(1), args->integer(2));
  const T* from = x.as<const T>();
  T* to = args->outputs[0].as<T>();
  cpu::parallel_for(x.numel, 4 * kBlocks * 32, [&](int64_t begin, int64_t end) {
    uint32_t words[4][kBlocks];
    Acc factors[4 * kBlocks];
    for (int64_t first = begin; first < end; first += 4 * kBlocks) {
      const int64_t count = end - first < 4 * kBlocks ? end - first : 4 * kBlocks;
      for (int64_t b = 0; b < kBlocks; ++b) {
        uint32_t block[4];
        philox(key, static_cast<uint64_t>(first / 4 + b), block);
        for (int w = 0; w < 4; ++w) words[w][b] = block[w];
      }
      for (int64_t b = 0; b < kBlocks; ++b) {
        for (int w = 0; w < 4; ++w) factors[4 * b + w] = philox_uniform(words[w][b]) >= p ? kept : Acc{};
      }
      for_lanes<T>(count, [&](int64_t i, int64_t n) {
        store_some(to + first + i, load_some(from + first + i, n) * load_some(factors + i, n), n);
      });
    }
  });
  return kOk;
}

int32_t dropout(const KernelArgs* args) {
  switch (args->inputs[0].dtype) {
    case DType::kF32: return drop<float>(args);
    case DType::kF16: return drop<f16>(args);
    case DType::kBF16: return drop<bf16>(args);
    default: return drop<double>(args);
  }
}

}  // namespace

LF_CPU_KERNEL(dropout, dropout)

}  // namespace lf
#endif
