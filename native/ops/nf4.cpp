// dequantize_nibbles: numbers of a code book of 16 from 4-bit codes, two a byte, the first in the high half; number i is
// book[code i] * scales[i / block]. The product is made in f32 and rounded once. What the last block holds beyond the shape is
// left out. One pass instead of a look-up, a product, a cut and a cast of f32 numbers. Bound by bytes.
// Used for NF4 (Dettmers et al., arXiv 2305.14314), whose book is in lib/nn/nf4.ts.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

LF_OP({.name = "dequantize_nibbles",
       .inputs = {{"codes"}, {"scales"}},
       .attrs = {{"book", AttrType::kNumbers}, {"block", AttrType::kInteger}, {"shape", AttrType::kIntegers}, {"dtype", AttrType::kDType}},
       .shape =
           [](OpCall& call) {
             call.check_dtype(0, DType::kU8);
             call.check_dtype(1, DType::kF32);
             if (call.list_size(0) != 16) call.fail(kArgument, "the book has %d numbers, needs 16", call.list_size(0));
             const int64_t block = call.integer(1);
             if (block < 2 || block % 2) call.fail(kArgument, "block is %lld, needs an even number from 2 on", (long long)block);
             if (!is_floating(call.dtype(3))) call.fail(kDType, "dtype is %s, needs a floating format", dtype_name(call.dtype(3)));
             int64_t shape[kMaxRank], numbers = 1;
             if (call.list_size(2) > kMaxRank) call.fail(kShape, "the shape has %d axes, at most %d can be", call.list_size(2), kMaxRank);
             for (int i = 0; i < call.list_size(2); ++i) numbers *= shape[i] = call.item(2, i);
             const int64_t blocks = (numbers + block - 1) / block;
             if (call.in(0).numel * 2 != blocks * block || call.in(1).numel != blocks) {
               call.fail(kShape, "%lld numbers in blocks of %lld take %lld bytes of codes and %lld scales, got %s and %s", (long long)numbers,
                         (long long)block, (long long)(blocks * block / 2), (long long)blocks, view_text(call.in(0)).c_str(),
                         view_text(call.in(1)).c_str());
             }
             call.output(call.dtype(3), shape, call.list_size(2));
           },
       .cost = io_cost<1>})

}  // namespace
}  // namespace lf
#else
#include "cpu/simd.h"
#include "ops/dtype_dispatch.h"

namespace lf {
namespace {

template <class T>
void dequantize(const KernelArgs* args) {
  using Acc = decltype(get(static_cast<const T*>(nullptr)));
  const TensorView& out = args->outputs[0];
  const auto* codes = args->inputs[0].as<const uint8_t>();
  const auto* scales = args->inputs[1].as<const float>();
  const int64_t block = args->integer(1);
  float book[16];
  for (int k = 0; k < 16; ++k) book[k] = static_cast<float>(args->attrs[args->attr_begin[0] + k]);
  constexpr int64_t kRun = 256;  // numbers made before they are rounded and stored
  cpu::parallel_for((out.numel + kRun - 1) / kRun, 64, [&](int64_t begin, int64_t end) {
    alignas(64) Acc values[kRun];
    for (int64_t run = begin; run < end; ++run) {
      const int64_t first = run * kRun, count = first + kRun < out.numel ? kRun : out.numel - first;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = first + i;
        const int byte = codes[at / 2];
        values[i] = static_cast<Acc>(book[at % 2 ? byte & 15 : byte >> 4] * scales[at / block]);
      }
      for_lanes<T>(count, [&](int64_t i, int64_t n) { store_some(out.as<T>() + first + i, load_some(values + i, n), n); });
    }
  });
}

int32_t dequantize_nibbles(const KernelArgs* args) {
  visit_floating(args->outputs[0].dtype, [&](auto t) { dequantize<decltype(t)>(args); });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(dequantize_nibbles, dequantize_nibbles)

}  // namespace lf
#endif
